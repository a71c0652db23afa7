// A device of a user, as the relay sees it: registers, sends by REST or socket, receives, acks.
import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { Observable, Turns } from "./deadline.mjs";
import { isPassing } from "./relay.mjs";
import { SignalDevice } from "./signal.mjs";
import { RelaySocket } from "./socket.mjs";

const ATTEMPTS = 20;
const PAGE = 40;

/** A person: an id, one identity key, and the devices that share it. */
export class User {
  devices = [];
  constructor(name) {
    this.name = name;
    this.id = randomUUID();
    this.identity = SignalDevice.newIdentity();
  }
}

export class Device extends Observable {
  #relay;
  #ledger;
  #fault;
  #signal;
  #token;
  #number;
  #wantsOnline = false;
  #opening; // the promise of the current or coming socket
  #inbox = new Turns();
  #seen = new Set();
  #unacked = new Set();
  #acked = new Set();
  #acking = false;
  #holdsAcks = false;
  retries = 0;
  repeats = 0;
  notices = 0;

  /** `socketOptions`: codec and tokenIn of RelaySocket. `fault` is told of whatever must not happen. */
  constructor(user, deviceId, { relay, ledger, fault, socketOptions }) {
    super();
    this.user = user;
    this.deviceId = deviceId;
    this.name = `${user.name}'s ${deviceId}`;
    this.socketOptions = socketOptions;
    this.#relay = relay;
    this.#ledger = ledger;
    this.#fault = (error) => fault(new Error(`${this.name}: ${error.message}`, { cause: error }));
    this.#signal = new SignalDevice(user.id, user.identity);
  }

  /** Registers; a further device of the user is linked by `linkedBy`, an earlier one. */
  async register(linkedBy) {
    const keys = this.#signal.makeKeys();
    const linkToken = linkedBy && (await linkedBy.#link(this.deviceId, keys.identity_key));
    const body = {
      device_id: this.deviceId,
      device_name: this.name,
      ...keys,
      proof: this.#signal.proof(this.#relay.name, this.deviceId, keys.signed_prekey.public_key),
      ...(linkToken && { link_token: linkToken }),
    };
    const { answer } = await this.#relay.call("POST", `/api/v1/keys/register/${this.user.id}`, { body, expect: [201] });
    assert.equal(answer.registration_id, keys.registration_id, "registration_id");
    assert.equal(answer.onetime_prekey_count, keys.onetime_prekeys.length, "onetime_prekey_count");
    assert.equal(answer.kem_prekey_count, keys.kem_prekeys.length, "kem_prekey_count");
    this.#token = answer.access_token;
    this.#number = answer.device_number;
    this.#signal.setNumber(answer.device_number);
    this.user.devices.push(this);
  }

  /** Fetches a bundle for every device of `peer`, opens a session to each, and answers the bundles. */
  async openSessions(peer) {
    const { answer } = await this.#call("GET", `/api/v1/keys/bundles/${peer.id}`);
    const numbers = answer.bundles.map((bundle) => bundle.device_number).sort();
    assert.deepEqual(numbers, peer.devices.map((device) => device.#number).sort(), "devices in the bundles");
    for (const bundle of answer.bundles) await this.#signal.openSession(bundle);
    return answer.bundles;
  }

  /**
   * Sends a new message to all devices of `peer` and resolves when it is accepted, over restarts of the relay too.
   * `way`: rest | socket. `loseAnswer`: as if the answer had been lost, so the same message is sent again.
   */
  async send(peer, way, { loseAnswer = false } = {}) {
    const messageId = randomUUID();
    const text = `${this.name} to ${peer.name}, ${this.#ledger.numberOfNext(this)}: ${randomBytes(24).toString("hex")}`;
    const plaintext = new Uint8Array(Buffer.from(text));
    this.#ledger.willSend(messageId, this, peer, plaintext);
    const envelopes = [];
    for (const device of peer.devices) envelopes.push(await this.#signal.encrypt(plaintext, device.#recipient()));
    const body = { recipient_id: peer.id, device_id: this.deviceId, message_id: messageId, message_type: "Text", envelopes };
    const answer = await this.#deliver(body, way, [200, 201]);
    assert.equal(answer.message_id, messageId, "message_id of the answer");
    assert.equal(answer.status, "Sent", "status of the answer");
    if (loseAnswer) assert.deepEqual(await this.#deliver(body, way, [200]), answer, "the answer to a repeated send");
    this.#ledger.wasAccepted(way);
  }

  /** Opens the socket and keeps it open, over restarts of the relay, until `goOffline`. */
  async goOnline() {
    this.#wantsOnline = true;
    this.#opening = this.#open();
    const socket = await this.#opening;
    await socket.drained();
    return socket;
  }

  /** Acks everything that has been read, then closes the socket. */
  async goOffline() {
    await this.nothingUnacked();
    const socket = await this.#opening;
    this.#wantsOnline = false;
    await socket.close();
  }

  /** Receives without acking until `ackAgain`. */
  holdAcks() {
    this.#holdsAcks = true;
  }

  ackAgain() {
    this.#holdsAcks = false;
    return this.#ackWhatWaits();
  }

  holdsUnacked() {
    return this.until(() => this.#unacked.size > 0, `${this.name} to hold something unacked`);
  }

  nothingUnacked() {
    return this.until(() => this.#unacked.size === 0, () => `acks of ${this.#unacked.size} items by ${this.name}`);
  }

  /** Empties the queue by REST. `removal`: delete (DELETE with ids) | ack (POST …/ack). */
  async drainByRest(removal) {
    let page = await this.readQueue();
    assert.deepEqual(idsOf(await this.readQueue()), idsOf(page), "a queue page read again");
    while (idsOf(page).length > 0) {
      for (const item of itemsOf(page)) await this.#inbox.take(() => this.#receive(item));
      await this.#removeByRest(removal, idsOf(page));
      page = await this.readQueue();
    }
    assert.equal(page.more, false, "more behind an empty page");
  }

  /** One page of the queue, as the relay tells it. */
  async readQueue() {
    return (await this.#call("GET", `/api/v1/messages/queue/me/${this.deviceId}?limit=${PAGE}`)).answer;
  }

  async #link(deviceId, identityKey) {
    const body = { device_id: deviceId, identity_key: identityKey, signature: this.#signal.vouch(deviceId, identityKey) };
    const { answer } = await this.#call("POST", `/api/v1/keys/link/${this.user.id}`, { body, expect: [201] });
    return answer.link_token;
  }

  #recipient() {
    return { userId: this.user.id, deviceNumber: this.#number, registrationId: this.#signal.registrationId };
  }

  #call(method, path, options) {
    return this.#relay.call(method, path, { token: this.#token, ...options });
  }

  async #deliver(body, way, expect) {
    for (let attempt = 1; ; attempt += 1) {
      try {
        return await (way === "rest" ? this.#sendByRest(body, expect) : this.#sendBySocket(body));
      } catch (error) {
        if (!isPassing(error) || attempt === ATTEMPTS) throw error;
        this.retries += 1;
        await this.#relay.ready();
      }
    }
  }

  async #sendByRest(body, expect) {
    const { answer } = await this.#call("POST", `/api/v1/messages/send/${this.user.id}`, { body, expect });
    return answer;
  }

  async #sendBySocket(body) {
    const socket = await this.#opening;
    const { type, ref, ...answer } = await socket.request("send", body);
    assert.equal(type, "sent", "the answer to a send frame");
    return answer;
  }

  async #open() {
    for (let attempt = 1; ; attempt += 1) {
      await this.#relay.ready();
      try {
        return await this.#openOnce();
      } catch (error) {
        if (!isPassing(error) || attempt === ATTEMPTS) throw error;
      }
    }
  }

  async #openOnce() {
    const url = this.#relay.socketUrl(`/ws/${this.user.id}/${this.deviceId}`);
    const socket = await RelaySocket.open(url, this.#token, {
      ...this.socketOptions,
      onItem: (item) => this.#take(item),
      onFault: this.#fault,
    });
    socket.closed.then(() => this.#reopen());
    this.#ackWhatWaits(socket);
    return socket;
  }

  #reopen() {
    if (!this.#wantsOnline) return;
    this.#opening = this.#open();
    this.#opening.catch(this.#fault);
  }

  #take(item) {
    if (this.#acked.has(item.message_id)) return this.#fault(new Error("an item came again after its acked"));
    this.#inbox.take(() => this.#receive(item)).then(() => this.#ackWhatWaits(), this.#fault);
  }

  async #receive(item) {
    const id = item.message_id;
    if (this.#seen.has(id)) {
      this.repeats += 1;
    } else if (item.type === "message") {
      this.#ledger.hasArrived(this, item, await this.#signal.decrypt(item));
    } else {
      this.notices += 1;
    }
    this.#seen.add(id);
    this.#unacked.add(id);
    this.changed();
  }

  async #ackWhatWaits(socket) {
    if (this.#acking || this.#holdsAcks || this.#unacked.size === 0 || !this.#wantsOnline) return;
    this.#acking = true;
    const ids = [...this.#unacked];
    try {
      await (socket ?? (await this.#opening)).request("ack", { message_ids: ids });
      this.#wereAcked(ids);
    } catch (error) {
      if (!isPassing(error)) return this.#fault(error);
    } finally {
      this.#acking = false;
    }
    // After a lost socket this waits for the next one, and acks there.
    await this.#ackWhatWaits();
  }

  async #removeByRest(removal, ids) {
    const queue = `/api/v1/messages/queue/${this.user.id}/${this.deviceId}`;
    const { answer } =
      removal === "delete"
        ? await this.#call("DELETE", queue, { body: ids })
        : await this.#call("POST", `${queue}/ack`, { body: { message_ids: ids } });
    assert.equal(answer.removed, ids.length, "removed");
    this.#wereAcked(ids);
  }

  #wereAcked(ids) {
    for (const id of ids) {
      this.#unacked.delete(id);
      this.#acked.add(id);
    }
    this.changed();
  }
}

/** The items of a queue page: messages with their bytes, and what is acked without being read. */
function itemsOf(page) {
  const messages = page.messages.map((message) => ({ ...message, type: "message", ciphertext: Buffer.from(message.ciphertext, "base64") }));
  return [...messages, ...(page.welcomes ?? []), ...(page.notices ?? [])];
}

function idsOf(page) {
  return itemsOf(page).map((item) => item.message_id);
}
