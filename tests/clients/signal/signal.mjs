// The Signal half of a device: its keys, its stores, its sessions. Knows nothing of HTTP or sockets.
import { createHash, randomInt } from "node:crypto";
import * as signal from "@signalapp/libsignal-client";
import { Turns } from "./deadline.mjs";

const ONE_TIME_KEYS = 60;
const KEM_KEYS = 20;
const SIGNED_KEY_ID = 1;
const LAST_RESORT_ID = 1000;

/** What the relay calls the two kinds of pairwise message. */
const ENVELOPE_TYPES = new Map([
  [signal.CiphertextMessageType.Whisper, "whisper"],
  [signal.CiphertextMessageType.PreKey, "prekey"],
]);

/** The bytes a device signs: the statement's name and its parts, 0x00 between them. */
export function statement(name, ...parts) {
  const pieces = [name, ...parts].map((part) => Buffer.from(part));
  return Buffer.concat(pieces.flatMap((piece, index) => (index === 0 ? [piece] : [Buffer.of(0), piece])));
}

class Sessions extends signal.SessionStore {
  #records = new Map();
  async saveSession(address, record) {
    this.#records.set(address.toString(), record.serialize());
  }
  async getSession(address) {
    const record = this.#records.get(address.toString());
    return record ? signal.SessionRecord.deserialize(record) : null;
  }
  async getExistingSessions(addresses) {
    return Promise.all(addresses.map((address) => this.getSession(address)));
  }
}

/** Trusts the first key seen of a user for all of that user's devices, which share it; and no other. */
class Identities extends signal.IdentityKeyStore {
  #trusted = new Map();
  constructor(pair, registrationId) {
    super();
    this.pair = pair;
    this.registrationId = registrationId;
  }
  async getIdentityKey() {
    return this.pair.privateKey;
  }
  async getLocalRegistrationId() {
    return this.registrationId;
  }
  async saveIdentity(address, key) {
    if (!(await this.isTrustedIdentity(address, key))) throw new Error("another identity key than the trusted one");
    this.#trusted.set(address.name(), key);
    return signal.IdentityChange.NewOrUnchanged;
  }
  async isTrustedIdentity(address, key) {
    const known = this.#trusted.get(address.name());
    return known === undefined || known.equals(key);
  }
  async getIdentity(address) {
    return this.#trusted.get(address.name()) ?? null;
  }
}

/** Private halves by id. Signal's three pre-key stores differ in the names of their methods only. */
class Records extends Map {
  get(id) {
    const record = super.get(id);
    if (!record) throw new Error(`no private half of pre-key ${id}: was it handed out twice?`);
    return record;
  }
}

export class SignalDevice {
  #identities;
  #sessions = new Sessions();
  #oneTime = new Records();
  #signed = new Records();
  #kem = new Records();
  #turns = new Turns(); // a ratchet must not be moved by two acts at a time

  /** `identity` is the user's IdentityKeyPair, shared by all devices of that user. */
  constructor(userId, identity) {
    this.userId = userId;
    this.identity = identity;
    this.registrationId = randomInt(1, 16384);
    this.#identities = new Identities(identity, this.registrationId);
  }

  static newIdentity() {
    return signal.IdentityKeyPair.generate();
  }

  /** Makes all keys and keeps their private halves; answers the public ones as the relay wants them. */
  makeKeys() {
    const signedPair = signal.PrivateKey.generate();
    const signedKey = signedPair.getPublicKey().serialize();
    const signature = this.sign(signedKey);
    const record = signal.SignedPreKeyRecord.new(SIGNED_KEY_ID, Date.now(), signedPair.getPublicKey(), signedPair, signature);
    this.#signed.set(SIGNED_KEY_ID, record);
    return {
      registration_id: this.registrationId,
      identity_key: this.identity.publicKey.serialize(),
      signed_prekey: { id: SIGNED_KEY_ID, public_key: signedKey, signature },
      onetime_prekeys: Array.from({ length: ONE_TIME_KEYS }, (_, index) => this.#makeOneTimeKey(index + 1)),
      kem_prekeys: Array.from({ length: KEM_KEYS }, (_, index) => this.#makeKemKey(index + 1)),
      last_resort_kem_prekey: this.#makeKemKey(LAST_RESORT_ID),
    };
  }

  /** The statement by which a device registers: it holds the identity key, here and now, for these keys. */
  proof(relayName, deviceId, signedKey) {
    const digest = createHash("sha256").update(signedKey).digest();
    return this.sign(statement("restante-register-v1", relayName, this.userId, deviceId, digest));
  }

  /** The statement by which this device vouches for another one of its user. */
  vouch(deviceId, identityKey) {
    return this.sign(statement("restante-link-v1", this.userId, deviceId, identityKey));
  }

  sign(message) {
    return this.identity.privateKey.sign(message);
  }

  /** The address other devices know this one by; given by the relay at registration. */
  setNumber(number) {
    this.address = signal.ProtocolAddress.new(this.userId, number);
  }

  /** Opens a session to the device of a bundle, once its chain to the user's trusted key has been checked. */
  openSession(bundle) {
    return this.#turns.take(async () => {
      const address = signal.ProtocolAddress.new(bundle.user_id, bundle.device_number);
      const key = signal.PublicKey.deserialize(bytes(bundle.identity_key));
      await this.#checkChain(address, key, bundle);
      const hasOneTime = bundle.onetime_prekey !== null;
      const preKeyBundle = signal.PreKeyBundle.new(
        bundle.registration_id,
        bundle.device_number,
        hasOneTime ? bundle.onetime_prekey_id : null,
        hasOneTime ? signal.PublicKey.deserialize(bytes(bundle.onetime_prekey)) : null,
        bundle.signed_prekey_id,
        signal.PublicKey.deserialize(bytes(bundle.signed_prekey)),
        bytes(bundle.signed_prekey_signature),
        key,
        bundle.kem_prekey_id,
        signal.KEMPublicKey.deserialize(bytes(bundle.kem_prekey)),
        bytes(bundle.kem_prekey_signature),
      );
      await signal.processPreKeyBundle(preKeyBundle, address, this.address, this.#sessions, this.#identities);
    });
  }

  /** One envelope of `plaintext` for one device. */
  encrypt(plaintext, { userId, deviceNumber, registrationId }) {
    return this.#turns.take(async () => {
      const address = signal.ProtocolAddress.new(userId, deviceNumber);
      const message = await signal.signalEncrypt(plaintext, address, this.address, this.#sessions, this.#identities);
      const type = ENVELOPE_TYPES.get(message.type());
      if (!type) throw new Error(`unexpected ciphertext type ${message.type()}`);
      return { device_number: deviceNumber, registration_id: registrationId, type, ciphertext: message.serialize() };
    });
  }

  decrypt({ sender_id, sender_device_number, envelope_type, ciphertext }) {
    return this.#turns.take(() => {
      const address = signal.ProtocolAddress.new(sender_id, sender_device_number);
      switch (envelope_type) {
        case "whisper": {
          const message = signal.SignalMessage.deserialize(ciphertext);
          return signal.signalDecrypt(message, address, this.address, this.#sessions, this.#identities);
        }
        case "prekey": {
          const message = signal.PreKeySignalMessage.deserialize(ciphertext);
          const stores = [this.#sessions, this.#identities, this.#preKeyStore(), this.#signedStore(), this.#kemStore()];
          return signal.signalDecryptPreKey(message, address, this.address, ...stores);
        }
        default:
          throw new Error(`envelope_type "${envelope_type}" was never sent`);
      }
    });
  }

  async #checkChain(address, key, { device_id, linked_by }) {
    const trusted = (await this.#identities.getIdentity(address)) ?? key;
    if (!trusted.equals(key)) throw new Error("a bundle with another identity key than the user's");
    if (linked_by === null) return;
    if (!trusted.equals(signal.PublicKey.deserialize(bytes(linked_by.identity_key)))) throw new Error("linked by an unknown key");
    const vouched = statement("restante-link-v1", address.name(), device_id, key.serialize());
    if (!trusted.verify(vouched, bytes(linked_by.signature))) throw new Error("the link statement is not signed by its device");
  }

  #makeOneTimeKey(id) {
    const pair = signal.PrivateKey.generate();
    this.#oneTime.set(id, signal.PreKeyRecord.new(id, pair.getPublicKey(), pair));
    return { id, public_key: pair.getPublicKey().serialize() };
  }

  #makeKemKey(id) {
    const pair = signal.KEMKeyPair.generate();
    const public_key = pair.getPublicKey().serialize();
    const signature = this.sign(public_key);
    this.#kem.set(id, signal.KyberPreKeyRecord.new(id, Date.now(), pair, signature));
    return { id, public_key, signature };
  }

  #preKeyStore() {
    return {
      savePreKey: async (id, record) => void this.#oneTime.set(id, record),
      getPreKey: async (id) => this.#oneTime.get(id),
      removePreKey: async (id) => void this.#oneTime.delete(id),
    };
  }

  #signedStore() {
    return {
      saveSignedPreKey: async (id, record) => void this.#signed.set(id, record),
      getSignedPreKey: async (id) => this.#signed.get(id),
    };
  }

  #kemStore() {
    return {
      saveKyberPreKey: async (id, record) => void this.#kem.set(id, record),
      getKyberPreKey: async (id) => this.#kem.get(id),
      markKyberPreKeyUsed: async (id) => void (id !== LAST_RESORT_ID && this.#kem.delete(id)),
    };
  }
}

function bytes(base64) {
  return new Uint8Array(Buffer.from(base64, "base64"));
}
