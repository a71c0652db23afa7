// Two users with two devices each talk through a relay that is stopped, killed and repeated at.
import assert from "node:assert/strict";
import { clearInterval, setInterval } from "node:timers";
import { setTimeout } from "node:timers/promises";
import { resolve } from "node:path";
import { within } from "./deadline.mjs";
import { Device, User } from "./device.mjs";
import { Ledger } from "./ledger.mjs";
import { emptyRedis } from "./redis.mjs";
import { Relay } from "./relay.mjs";

const SCENARIO_MS = 8 * 60_000;
const PER_DIRECTION = 200;
const ROUND = 25; // messages of one device in one act
const LOSE_EVERY = 10;
const KILLS = 4;
const KILL_EVERY_MS = 5_000;
const EMPTY_EVERY_MS = 1_000;

function readSettings(env) {
  const engines = env.ENGINES ?? "embedded";
  if (!env.RELAY_BINARY) throw new Error("RELAY_BINARY must be the path of the relay");
  if (!["embedded", "production"].includes(engines)) throw new Error("ENGINES must be embedded or production");
  if (engines === "production" && !env.DATABASE_URL) throw new Error("production engines need DATABASE_URL (and REDIS_URL)");
  return {
    binary: resolve(env.RELAY_BINARY),
    engines,
    databaseUrl: env.DATABASE_URL,
    redisUrl: env.REDIS_URL,
    relayName: env.RELAY_NAME ?? "localhost",
  };
}

/** Registers everybody: a first device by its user id's first claim, the second linked by the first. */
async function populate(world) {
  const [alice, bob] = [new User("alice"), new User("bob")];
  const kinds = [
    [alice, "phone", { codec: "json", tokenIn: "header" }],
    [alice, "laptop", { codec: "msgpack", tokenIn: "header" }],
    [bob, "phone", { codec: "json", tokenIn: "protocol" }],
    [bob, "laptop", { codec: "msgpack", tokenIn: "protocol" }],
  ];
  for (const [user, deviceId, socketOptions] of kinds) {
    await new Device(user, deviceId, { ...world, socketOptions }).register(user.devices[0]);
  }
  return { alice, bob };
}

/** Everybody opens sessions to everybody else's devices; no one-time key may be handed out twice. */
async function openAllSessions(alice, bob) {
  const handedOut = new Set();
  for (const [user, peer] of [[alice, bob], [bob, alice]]) {
    for (const device of user.devices) {
      for (const bundle of await device.openSessions(peer)) {
        for (const key of [bundle.onetime_prekey, bundle.kem_prekey]) {
          assert(key, `${peer.name} still has one-time keys, yet a bundle came without`);
          assert(!handedOut.has(key), "a one-time key was handed out twice");
          handedOut.add(key);
        }
      }
    }
  }
  return handedOut.size;
}

/** Every device of `user` sends a round, one message after the other, half by REST and half by socket. */
async function sendRound(user, peer) {
  await Promise.all(
    user.devices.map(async (device) => {
      for (let index = 0; index < ROUND; index += 1) {
        await device.send(peer, index % 2 === 0 ? "rest" : "socket", { loseAnswer: index % LOSE_EVERY >= LOSE_EVERY - 2 });
      }
    }),
  );
}

/** `peer` is away; its first device comes back by socket, its second by REST. */
async function sendToAbsent(user, peer, removal, ledger) {
  await sendRound(user, peer);
  const [first, second] = peer.devices;
  const socket = await first.goOnline();
  assert(socket.pending > 0, "hello told of nothing pending");
  await second.drainByRest(removal);
  await ledger.allArrived(peer.devices);
  await first.nothingUnacked();
}

async function talkLive(alice, bob, ledger) {
  await Promise.all([sendRound(alice, bob), sendRound(bob, alice)]);
  await ledger.allArrived([...alice.devices, ...bob.devices]);
}

/** Ends the relay in the middle of a talk, while `holder` has read what it has not acked. */
async function talkOverRestart(signal, holder, { alice, bob, relay, ledger }) {
  const everybody = [...alice.devices, ...bob.devices];
  const retriesBefore = sum(everybody, "retries");
  const repeatsBefore = holder.repeats;
  const half = ledger.accepted + ROUND * 2;
  holder.holdAcks();
  const talk = talkLive(alice, bob, ledger);
  const cut = (async () => {
    await ledger.until(() => ledger.accepted >= half, "half of the sends");
    await holder.holdsUnacked();
    await relay.restart(signal);
  })();
  await Promise.all([talk, cut]);
  await holder.until(() => holder.repeats > repeatsBefore, `${holder.name} to get again what it had not acked before ${signal}`);
  await holder.ackAgain();
  await Promise.all(everybody.map((device) => device.nothingUnacked()));
  assert(sum(everybody, "retries") > retriesBefore, `no send met the ${signal}`);
}

/** Everybody talks on and on while the relay is killed every five seconds, and Redis, where there is one, emptied every second. */
async function talkThroughChaos({ relay, ledger, redisUrl, fault }, alice, bob) {
  const everybody = [...alice.devices, ...bob.devices];
  let emptied = 0;
  const empty = () => emptyRedis(redisUrl).then(() => (emptied += 1), fault);
  const emptying = redisUrl && setInterval(empty, EMPTY_EVERY_MS);
  let killed = 0;
  const killing = (async () => {
    while (killed < KILLS) {
      await setTimeout(KILL_EVERY_MS);
      await relay.restart("SIGKILL");
      killed += 1;
    }
  })();
  const talking = (async () => {
    while (killed < KILLS) await talkLive(alice, bob, ledger);
  })();
  await Promise.all([killing, talking]);
  clearInterval(emptying);
  await talkLive(alice, bob, ledger);
  await Promise.all(everybody.map((device) => device.nothingUnacked()));
  return { killed, emptied };
}

/** Nothing is left anywhere, neither by REST nor for a socket. */
async function checkNothingLeft(devices) {
  for (const device of devices) {
    await device.goOffline();
    const page = await device.readQueue();
    assert.equal(page.count, 0, `${device.name} has items left`);
    assert.equal(page.more, false, `${device.name} has more items left`);
    const socket = await device.goOnline();
    assert.equal(socket.pending, 0, `${device.name} has items pending`);
    await device.goOffline();
  }
}

async function play(world) {
  const { relay, ledger, step } = world;
  step("start");
  await relay.start();
  step("register and link");
  const { alice, bob } = await populate(world);
  const everybody = [...alice.devices, ...bob.devices];
  step("open sessions");
  const keys = await openAllSessions(alice, bob);
  await Promise.all(alice.devices.map((device) => device.goOnline()));
  step("send to a user who is away");
  await sendToAbsent(alice, bob, "ack", ledger);
  await bob.devices[1].goOnline();
  step("talk live");
  await talkLive(alice, bob, ledger);
  step("talk over SIGTERM");
  await talkOverRestart("SIGTERM", bob.devices[0], { ...world, alice, bob });
  step("talk over SIGKILL");
  await talkOverRestart("SIGKILL", alice.devices[1], { ...world, alice, bob });
  step("talk through kills and an emptied Redis");
  const chaos = await talkThroughChaos(world, alice, bob);
  step("send to the other user, who is away now");
  await Promise.all(alice.devices.map((device) => device.goOffline()));
  await sendToAbsent(bob, alice, "delete", ledger);
  await alice.devices[1].goOnline();
  step("check that nothing is left");
  await checkNothingLeft(everybody);
  for (const user of [alice, bob]) assert(ledger.sentBy(user) >= PER_DIRECTION, `${user.name} sent ${ledger.sentBy(user)}`);
  assert.equal(ledger.arrived, ledger.expected, "arrivals");
  assert(ledger.byType.whisper > 0 && ledger.byType.prekey > 0, "both kinds of message");
  step("stop");
  await relay.stop("SIGTERM");
  return { keys, alice, bob, everybody, chaos };
}

function summarise({ keys, alice, bob, everybody, chaos }, ledger) {
  const { rest, socket } = ledger.byWay;
  const { prekey, whisper } = ledger.byType;
  return [
    `sent ${ledger.accepted} (alice ${ledger.sentBy(alice)}, bob ${ledger.sentBy(bob)}; ${rest} by REST, ${socket} by socket)`,
    `arrived ${ledger.arrived} of ${ledger.expected} (${prekey} prekey, ${whisper} whisper), each once, in order, unchanged`,
    `resent after lost answers ${sum(everybody, "retries")}, repeats at receivers ${sum(everybody, "repeats")}, notices ${sum(everybody, "notices")}`,
    `relay killed ${chaos.killed} times every ${KILL_EVERY_MS / 1000} s, Redis emptied ${chaos.emptied} times`,
    `one-time keys handed out ${keys}, none twice; queues empty`,
  ].join("\n");
}

function sum(devices, field) {
  return devices.reduce((total, device) => total + device[field], 0);
}

async function main() {
  const settings = readSettings(process.env);
  const relay = await Relay.prepare(settings);
  const ledger = new Ledger();
  let fault;
  const faults = new Promise((_, reject) => (fault = reject));
  const step = (what) => console.log(`signal client (${settings.engines}): ${what}`);
  for (const signal of ["SIGINT", "SIGTERM"]) process.once(signal, () => fault(new Error(`ended by ${signal}`)));
  try {
    const outcome = await within(Promise.race([play({ relay, ledger, fault, step, redisUrl: settings.redisUrl }), faults]), "the whole scenario", SCENARIO_MS);
    console.log(summarise(outcome, ledger));
    return 0;
  } catch (error) {
    console.error(`failed: ${error.stack}\nthe relay's last words:\n${relay.log()}`);
    return 1;
  } finally {
    await relay.discard();
  }
}

process.exit(await main());
