// A WebSocket to the relay: frames in JSON or MessagePack, answers matched to requests by `ref`.
import { decode, encode } from "@msgpack/msgpack";
import WebSocket from "ws";
import { within } from "./deadline.mjs";
import { AnswerLost, Refused, toJson } from "./relay.mjs";

const CODECS = {
  json: {
    protocol: "restante.v1",
    encode: toJson,
    decode: (data) => JSON.parse(data.toString("utf8")),
    bytes: (field) => Buffer.from(field, "base64"),
    binary: false,
  },
  msgpack: {
    protocol: "restante.v1.msgpack",
    encode: (frame) => encode(frame, { ignoreUndefined: true }),
    decode: (data) => decode(data),
    bytes: (field) => {
      if (field instanceof Uint8Array) return Buffer.from(field);
      throw new Error("a byte field of a MessagePack frame is not binary");
    },
    binary: true,
  },
};

export class RelaySocket {
  #socket;
  #codec;
  #onItem;
  #onFault;
  #answers = new Map();
  #nextRef = 1;
  #drained;

  /**
   * Opens a socket and resolves after `hello`.
   * `codec`: json | msgpack; `tokenIn`: header | protocol. `onItem` gets every mailbox item, bytes decoded;
   * `onFault` whatever must not happen.
   */
  static async open(url, token, { codec, tokenIn, onItem, onFault }) {
    const socket = new RelaySocket();
    socket.#codec = CODECS[codec];
    socket.#onItem = onItem;
    socket.#onFault = onFault;
    await within(socket.#connect(url, token, tokenIn), "socket open");
    return socket;
  }

  /** A frame that is answered by `sent` or `acked`. Bytes are given as Uint8Array. Throws AnswerLost once the socket is closed. */
  async request(type, fields) {
    if (this.#socket.readyState === WebSocket.CLOSED) throw new AnswerLost(`${type}: the socket is closed`);
    const ref = String(this.#nextRef++);
    const answer = new Promise((resolve, reject) => this.#answers.set(ref, { resolve, reject }));
    // A frame that cannot be written any more is answered by the close that follows, not before: who tries again then
    // meets the next socket.
    this.#socket.send(this.#codec.encode({ type, ref, ...fields }), { binary: this.#codec.binary }, () => {});
    try {
      return await within(answer, `answer to ${type}`);
    } finally {
      this.#answers.delete(ref);
    }
  }

  /** Resolves at `queue_drained`. */
  drained() {
    return within(this.#drained.promise, "queue_drained");
  }

  async close() {
    this.#socket.close(1000);
    await within(this.closed, "socket closed");
  }

  #connect(url, token, tokenIn) {
    const { protocol } = this.#codec;
    const protocols = tokenIn === "protocol" ? [protocol, `bearer.${token}`] : [protocol];
    const headers = tokenIn === "header" ? { authorization: `Bearer ${token}` } : {};
    const socket = new WebSocket(url, protocols, { headers, perMessageDeflate: false });
    this.#socket = socket;
    this.#drained = deferred();
    this.closed = new Promise((resolve) => socket.once("close", resolve));
    const hello = deferred();
    socket.on("error", (error) => hello.reject(new AnswerLost(`socket: ${error.message}`)));
    socket.once("close", (code) => this.#end(new AnswerLost(`socket closed: ${code}`), hello));
    socket.on("message", (data) => this.#receive(data, hello));
    return hello.promise.then(() => {
      if (socket.protocol !== protocol) throw new Error(`the relay chose subprotocol "${socket.protocol}"`);
    });
  }

  #end(reason, hello) {
    hello.reject(reason);
    this.#drained.reject(reason);
    for (const { reject } of this.#answers.values()) reject(reason);
  }

  #receive(data, hello) {
    let frame;
    try {
      frame = this.#codec.decode(data);
      this.#dispatch(frame, hello);
    } catch (error) {
      this.#onFault(new Error(`frame ${frame?.type ?? "unreadable"}: ${error.message}`));
    }
  }

  #dispatch(frame, hello) {
    switch (frame.type) {
      case "hello":
        this.pending = frame.pending;
        return hello.resolve();
      case "message":
        return this.#onItem({ ...frame, ciphertext: this.#codec.bytes(frame.ciphertext) });
      case "welcome":
      case "joined":
      case "deleted":
      case "devices_changed":
        return this.#onItem(frame);
      case "queue_drained":
        return this.#drained.resolve();
      case "sent":
      case "acked":
        return this.#answers.get(frame.ref)?.resolve(frame);
      case "error":
        return this.#refuse(frame);
      default: // clients ignore frames they do not know
    }
  }

  #refuse(frame) {
    const waiting = this.#answers.get(frame.ref);
    if (!waiting) throw new Error(`${frame.code} ${frame.detail}`);
    waiting.reject(new Refused("frame", frame.status, frame));
  }
}

function deferred() {
  const parts = {};
  parts.promise = new Promise((resolve, reject) => Object.assign(parts, { resolve, reject }));
  parts.promise.catch(() => {}); // waited for only where it matters
  return parts;
}
