// One device's MLS half by ts-mls: a request a line on standard input, an answer a line on standard output, bytes in base64.
// What the answers mean is said in tests/relay/support/mls/mod.rs. The state moves on by `accepted` alone.
import { createInterface } from "node:readline";
import {
  acceptAll,
  ciphersuites,
  createApplicationMessage,
  createCommit,
  createGroup,
  createProposal,
  decodeMlsMessage,
  emptyPskIndex,
  encodeMlsMessage,
  generateKeyPackageWithKey,
  getCiphersuiteFromName,
  getCiphersuiteImpl,
  joinGroup,
  processMessage,
} from "ts-mls";
import { createGroupInfo } from "ts-mls/createCommit.js";
import { makeKeyPackageRef } from "ts-mls/keyPackage.js";
import { decodeRatchetTree, encodeRatchetTree } from "ts-mls/ratchetTree.js";

const LIFE_SECONDS = 60n * 24n * 3600n;
const LAST_RESORT = 10;
const text = (bytes) => Buffer.from(bytes).toString("base64");
const bytes = (encoded) => new Uint8Array(Buffer.from(encoded, "base64"));
const hex = (value) => Buffer.from(value).toString("hex");

function decoded(encoded, wireformat) {
  const message = decodeMlsMessage(bytes(encoded), 0)?.[0];
  if (!message || (wireformat && message.wireformat !== wireformat)) throw new Error(`not a ${wireformat ?? "message"}`);
  return message;
}

const written = (wireformat, content) => text(encodeMlsMessage({ version: "mls10", wireformat, ...content }));

class Peer {
  #suite;
  #suiteName;
  #isPrivate;
  #credential;
  #keys;
  #packages = new Map(); // by reference
  #state;
  #next; // what the state becomes when the pending commit is accepted

  async begin({ identity, suite, private: isPrivate }) {
    this.#suiteName = Object.keys(ciphersuites).find((name) => ciphersuites[name] === suite);
    this.#suite = await getCiphersuiteImpl(getCiphersuiteFromName(this.#suiteName));
    this.#isPrivate = isPrivate;
    this.#credential = { credentialType: "basic", identity: new TextEncoder().encode(identity) };
    const { signKey, publicKey } = await this.#suite.signature.keygen();
    this.#keys = { signKey, publicKey };
    return {};
  }

  signature_key() {
    return { scheme: this.#suiteName.endsWith("P256") ? 0x0403 : 0x0807, public_key: text(this.#keys.publicKey) };
  }

  async #package(lastResort) {
    const now = BigInt(Math.floor(Date.now() / 1000));
    const capabilities = {
      versions: ["mls10"],
      ciphersuites: [this.#suiteName],
      extensions: [LAST_RESORT],
      proposals: [],
      credentials: ["basic"],
    };
    const lifetime = { notBefore: now - 60n, notAfter: now + LIFE_SECONDS };
    const extensions = lastResort ? [{ extensionType: LAST_RESORT, extensionData: new Uint8Array() }] : [];
    return generateKeyPackageWithKey(this.#credential, capabilities, lifetime, extensions, this.#keys, this.#suite);
  }

  async key_package({ last_resort }) {
    const made = await this.#package(last_resort);
    this.#packages.set(hex(await makeKeyPackageRef(made.publicPackage, this.#suite.hash)), made);
    return { key_package: written("mls_key_package", { keyPackage: made.publicPackage }) };
  }

  /** The GroupInfo of a state, without `external_pub`, which this version of the library writes malformed. */
  async #groupInfo(state) {
    const info = await createGroupInfo(state.groupContext, state.confirmationTag, state, [], this.#suite);
    return written("mls_group_info", { groupInfo: info });
  }

  async create({ group }) {
    const { publicPackage, privatePackage } = await this.#package(false);
    this.#state = await createGroup(bytes(group), publicPackage, privatePackage, [], this.#suite);
    return { group_info: await this.#groupInfo(this.#state), tree: this.tree().tree };
  }

  async commit({ add = [], remove = [] }) {
    const adds = add.map((encoded) => {
      const { keyPackage } = decoded(encoded, "mls_key_package");
      return { proposalType: "add", add: { keyPackage } };
    });
    const removes = remove.map((removed) => ({ proposalType: "remove", remove: { removed } }));
    const made = await createCommit(
      { state: this.#state, cipherSuite: this.#suite },
      { wireAsPublicMessage: !this.#isPrivate, ratchetTreeExtension: this.#isPrivate, extraProposals: [...adds, ...removes] },
    );
    this.#next = made.newState;
    return {
      commit: text(encodeMlsMessage(made.commit)),
      group_info: await this.#groupInfo(made.newState),
      welcome: made.welcome ? written("mls_welcome", { welcome: made.welcome }) : null,
    };
  }

  accepted() {
    this.#state = this.#next;
    this.#next = undefined;
    return {};
  }

  refused() {
    this.#next = undefined;
    return {};
  }

  async join({ welcome, tree }) {
    const { welcome: decodedWelcome } = decoded(welcome, "mls_welcome");
    const ratchetTree = tree ? decodeRatchetTree(bytes(tree), 0)[0] : undefined; // else the Welcome carries it
    const own = decodedWelcome.secrets.map(({ newMember }) => this.#packages.get(hex(newMember))).find(Boolean);
    if (!own) throw new Error("the Welcome is for somebody else");
    const { publicPackage, privatePackage } = own;
    this.#state = await joinGroup(decodedWelcome, publicPackage, privatePackage, emptyPskIndex, this.#suite, ratchetTree);
    return {};
  }

  async receive({ message }) {
    const result = await processMessage(decoded(message), this.#state, emptyPskIndex, acceptAll, this.#suite);
    const epoch = this.#state.groupContext.epoch;
    this.#state = result.newState;
    if (result.kind === "applicationMessage") return { application: text(result.message) };
    if (this.#state.groupActiveState.kind === "removedFromGroup") return { removed: true };
    return this.#state.groupContext.epoch > epoch ? { commit: true } : { proposal: true };
  }

  async seal({ plaintext }) {
    const made = await createApplicationMessage(this.#state, bytes(plaintext), this.#suite);
    this.#state = made.newState;
    return { message: written("mls_private_message", { privateMessage: made.privateMessage }) };
  }

  async propose_leave() {
    const proposal = { proposalType: "remove", remove: { removed: this.leaf().leaf } };
    const made = await createProposal(this.#state, !this.#isPrivate, proposal, this.#suite);
    this.#state = made.newState;
    return { proposal: text(encodeMlsMessage(made.message)) };
  }

  tree() {
    return { tree: text(encodeRatchetTree(this.#state.ratchetTree)) };
  }

  epoch() {
    return { epoch: Number(this.#state.groupContext.epoch) };
  }

  authenticator() {
    return { authenticator: text(this.#state.keySchedule.epochAuthenticator) };
  }

  leaf() {
    return { leaf: this.#state.privatePath.leafIndex };
  }

  members() {
    const members = [];
    this.#state.ratchetTree.forEach((node, index) => {
      if (node?.nodeType !== "leaf") return;
      members.push([index / 2, new TextDecoder().decode(node.leaf.credential.identity)]);
    });
    return { members };
  }
}

const peer = new Peer();
for await (const line of createInterface({ input: process.stdin })) {
  const { act, ...rest } = JSON.parse(line);
  let answer;
  try {
    answer = await peer[act](rest);
  } catch (error) {
    answer = { error: String(error?.message ?? error) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
