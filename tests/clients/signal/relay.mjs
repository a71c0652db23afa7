// The relay as a process, and its HTTP interface.
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { STEP_MS, within } from "./deadline.mjs";

const HOST = "127.0.0.1";
const ANSWER_MS = 20_000;
const LOG_LINES_KEPT = 60;

/** No answer came: the request may or may not have been carried out. */
export class AnswerLost extends Error {}

/** The relay answered, but not what was expected. `status` is absent in the frames of a socket. */
export class Refused extends Error {
  constructor(act, status, problem) {
    super([act, status, problem?.code, problem?.detail].filter(Boolean).join(" "));
    this.status = status;
    this.code = problem?.code;
  }
}

const PASSING_CODES = new Set(["store-unavailable", "overloaded", "draining"]);

/** Whether the same request may be sent again: its fate is unknown, or the relay said "not now". */
export function isPassing(error) {
  if (error instanceof AnswerLost) return true;
  return error instanceof Refused && (error.status === 503 || PASSING_CODES.has(error.code));
}

export class Relay {
  #binary;
  #environment;
  #process;
  #exit;
  #ready;
  #log = [];

  /** A relay that is not started yet, with a folder and a port of its own. */
  static async prepare({ binary, engines, databaseUrl, redisUrl, relayName }) {
    const relay = new Relay();
    relay.#binary = binary;
    relay.name = relayName;
    relay.port = await freePort();
    relay.folder = await mkdtemp(join(tmpdir(), "restante-signal-"));
    relay.#environment = {
      PATH: process.env.PATH,
      HOST,
      PORT: String(relay.port),
      DATA_DIR: join(relay.folder, "data"),
      RELAY_NAME: relayName,
      RUST_LOG: process.env.RUST_LOG ?? "warn",
      ...(engines === "production" && {
        DATABASE_URL: databaseUrl,
        REDIS_URL: redisUrl,
        REDIS_PREFIX: `signal-${randomBytes(6).toString("hex")}`,
        MASTER_SECRET: process.env.MASTER_SECRET ?? randomBytes(32).toString("base64"),
        TOKEN_SIGNING_KEY: process.env.TOKEN_SIGNING_KEY ?? randomBytes(32).toString("base64"),
      }),
    };
    return relay;
  }

  /** Starts the process; resolves when it says it is ready. */
  start() {
    this.#ready = this.#boot();
    this.#ready.catch(() => {}); // whoever waits for it hears of it; nobody has to
    return this.#ready;
  }

  /** Ends the process by `signal` and starts it again, on the same port and data; from now on `ready()` means the new one. */
  restart(signal) {
    this.#ready = this.stop(signal).then(() => this.#boot());
    this.#ready.catch(() => {});
    return this.#ready;
  }

  /** Resolves when the process that was started last is ready. */
  ready() {
    return this.#ready;
  }

  /** Ends the process by `signal` and waits until it is gone. */
  async stop(signal) {
    if (!this.#process) return;
    const [child, exit] = [this.#process, this.#exit];
    this.#process = undefined;
    child.kill(signal);
    await within(exit, `relay ended by ${signal}`).catch((error) => {
      child.kill("SIGKILL");
      throw error;
    });
  }

  /** Stops what runs, whatever happened before, and removes the folder. */
  async discard() {
    await this.stop("SIGKILL");
    await rm(this.folder, { recursive: true, force: true });
  }

  socketUrl(path) {
    return `ws://${HOST}:${this.port}${path}`;
  }

  /** One request. Throws Refused for a status outside `expect`, AnswerLost when there was no answer. */
  async call(method, path, { token, body, expect = [200] } = {}) {
    const headers = {};
    if (token) headers.authorization = `Bearer ${token}`;
    if (body !== undefined) headers["content-type"] = "application/json";
    let status, text;
    try {
      const response = await fetch(`http://${HOST}:${this.port}${path}`, {
        method,
        headers,
        body: body === undefined ? undefined : toJson(body),
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      status = response.status;
      text = await response.text();
    } catch (error) {
      throw new AnswerLost(`${method} ${path}: ${error.cause?.code ?? error.name}`);
    }
    const answer = parseJson(text);
    if (!expect.includes(status)) throw new Refused(`${method} ${path}`, status, answer);
    return { status, answer };
  }

  /** The last lines the process wrote, for a failure's report. */
  log() {
    return this.#log.join("\n");
  }

  async #boot() {
    const child = spawn(this.#binary, [], { cwd: this.folder, env: this.#environment, stdio: ["ignore", "pipe", "pipe"] });
    this.#process = child;
    this.#exit = new Promise((resolve) => {
      child.once("exit", (code, signal) => resolve(signal ?? `code ${code}`));
      child.once("error", (error) => resolve(error.message));
    });
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => this.#remember(text));
    }
    const ended = this.#exit.then((how) => {
      throw new Error(`the relay ended while starting: ${how}`);
    });
    ended.catch(() => {}); // it may well end later, when asked to
    await within(Promise.race([this.#answersReady(), ended]), "relay ready");
  }

  async #answersReady() {
    const started = performance.now();
    while (performance.now() - started < STEP_MS) {
      try {
        await this.call("GET", "/health/ready");
        return;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 25)); // between two looks at a port nothing else announces
      }
    }
  }

  #remember(text) {
    this.#log.push(...text.trimEnd().split("\n"));
    this.#log.splice(0, this.#log.length - LOG_LINES_KEPT);
  }
}

/** JSON as the relay takes it: byte fields are base64 strings. */
export function toJson(value) {
  return JSON.stringify(value, function (key, shown) {
    const raw = this[key]; // a Buffer's toJSON has been called on `shown` already
    return raw instanceof Uint8Array ? Buffer.from(raw).toString("base64") : shown;
  });
}

function parseJson(text) {
  try {
    return text === "" ? null : JSON.parse(text);
  } catch {
    return { detail: text.slice(0, 200) };
  }
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve, reject) => server.once("error", reject).listen(0, HOST, resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}
