// What was sent, what arrived, and whether the one is the other: exactly once, in order, unchanged.
import assert from "node:assert/strict";
import { Observable } from "./deadline.mjs";

export class Ledger extends Observable {
  #sent = new Map(); // message id → {sender, recipient, number, plaintext}
  #lastNumber = new Map(); // sender device → number of its last message
  #lastArrived = new Map(); // sender device → recipient device → number of the last arrival
  accepted = 0;
  arrived = 0;
  expected = 0;
  byWay = { rest: 0, socket: 0 };
  byType = { prekey: 0, whisper: 0 };

  /** Notes a message before it is sent; every device of `recipient` must get it. */
  willSend(messageId, sender, recipient, plaintext) {
    const number = this.numberOfNext(sender);
    this.#lastNumber.set(sender, number);
    this.#sent.set(messageId, { sender, recipient, number, plaintext: Buffer.from(plaintext) });
    this.expected += recipient.devices.length;
  }

  numberOfNext(sender) {
    return (this.#lastNumber.get(sender) ?? 0) + 1;
  }

  wasAccepted(way) {
    this.accepted += 1;
    this.byWay[way] += 1;
    this.changed();
  }

  /** Notes the first arrival of a message at a device, and checks it against what was sent. */
  hasArrived(device, message, plaintext) {
    const sent = this.#sent.get(message.message_id);
    assert(sent, "a message arrived that nobody sent");
    const { sender, recipient, number } = sent;
    assert.equal(message.sender_id, sender.user.id, "sender_id");
    assert.equal(message.sender_device_id, sender.deviceId, "sender_device_id");
    assert.equal(message.recipient_id, recipient.id, "recipient_id");
    assert(recipient.devices.includes(device), `${device.name} got a message for somebody else`);
    assert(sent.plaintext.equals(plaintext), `${device.name}: message ${number} of ${sender.name} has changed on the way`);
    const arrivals = this.#arrivalsOf(sender);
    const previous = arrivals.get(device) ?? 0;
    assert.equal(number, previous + 1, `${device.name}: message ${number} of ${sender.name} came after ${previous}`);
    arrivals.set(device, number);
    this.byType[message.envelope_type] += 1;
    this.arrived += 1;
    this.changed();
  }

  /** Resolves when everything that was sent so far has arrived everywhere. */
  allArrived(devices) {
    const missing = () => devices.flatMap((device) => this.missingAt(device));
    return this.until(() => missing().length === 0, () => `arrivals: ${missing().join("; ")}`);
  }

  /** What `device` still lacks, in words. */
  missingAt(device) {
    const lacks = [];
    for (const [sender, last] of this.#lastNumber) {
      const arrived = this.#arrivalsOf(sender).get(device) ?? 0;
      if (sender.user !== device.user && arrived < last) lacks.push(`${device.name} has ${arrived} of ${last} from ${sender.name}`);
    }
    return lacks;
  }

  /** How many messages a user's devices have sent. */
  sentBy(user) {
    return user.devices.reduce((sum, device) => sum + (this.#lastNumber.get(device) ?? 0), 0);
  }

  #arrivalsOf(sender) {
    if (!this.#lastArrived.has(sender)) this.#lastArrived.set(sender, new Map());
    return this.#lastArrived.get(sender);
  }
}
