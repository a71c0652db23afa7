//! One large group: how soon the last of its members has a message, how many messages it carries while all of them listen and
//! ack, and how many it takes while all but a few are away.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep, timeout},
};
use uuid::Uuid;

use crate::{
    Outcome,
    frames::{Heard, Pace, Socket, Stamps, ack_entries, body, group_send_head},
    lanes::{self, Lane, Tally},
    load::percentiles,
    meter::Meter,
    options::Options,
    people::{Person, Registrar},
    relay::Relay,
    sender::SocketLane,
};

/// Connections that open at a time.
const AT_A_TIME: usize = 32;

/// How long everybody is left alone between two messages whose way is timed.
const GAP: Duration = Duration::from_millis(50);

/// How long the last member is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Members that send while the others are away.
const SENDERS: usize = 4;

/// What the members have heard, all together.
#[derive(Default)]
struct Ears {
    entries: AtomicU64,
    /// Entries after which somebody waits to be told.
    awaited: AtomicU64,
    heard: Notify,
}

impl Ears {
    fn hear(&self) {
        if self.entries.fetch_add(1, Relaxed) + 1 == self.awaited.load(Relaxed) {
            self.heard.notify_one();
        }
    }

    /// Waits until this many entries were heard since the beginning.
    async fn until(&self, entries: u64) -> Outcome<()> {
        self.awaited.store(entries, Relaxed);
        while self.entries.load(Relaxed) < entries {
            timeout(PATIENCE, self.heard.notified()).await.map_err(|_| "a member did not get an entry")?;
        }
        Ok(())
    }
}

/// The group, with everybody but the first member listening.
struct Room<'a> {
    group: Uuid,
    people: &'a [Person],
    ears: Arc<Ears>,
    listening: JoinSet<()>,
    stamps: Stamps,
}

pub(crate) async fn run(
    relay: &Relay,
    registrar: &Registrar,
    options: &Options,
    members: usize,
) -> Outcome<Value> {
    let people = registrar.register(members).await?;
    let group = found(registrar, &people).await?;
    let mut meter = Meter::new(relay).await?;
    let room = Room::open(relay, group, &people).await?;
    println!("a group of {members}, all connected");
    let mut socket = Socket::open(relay.address, room.first()?).await?;
    let alone = room.one_by_one(&mut socket, options).await?;
    let told = percentiles("sent to the last member", alone);
    let all_connected = room.at_once(&mut socket, options, &mut meter).await?;
    drop((socket, room));
    let away = away(relay, group, &people, options, &mut meter).await?;
    Ok(json!({
        "members": members, "size": options.size, "to_the_last_ms": told,
        "all_connected": all_connected, "away": away,
    }))
}

async fn found(registrar: &Registrar, people: &[Person]) -> Outcome<Uuid> {
    let (founder, others) = people.split_first().ok_or("nobody was registered")?;
    let ids: Vec<_> = others.iter().map(|person| person.user).collect();
    let url = format!("http://{}/api/v1/groups/create/me", registrar.address);
    let client = Client::builder().no_proxy().build()?;
    let request = client.post(url).bearer_auth(&founder.token).json(&json!({ "member_ids": ids }));
    let answer: Value = request.send().await?.json().await?;
    let id = answer["group_id"].as_str().ok_or_else(|| format!("no group was made: {answer}"))?;
    Ok(id.parse()?)
}

impl<'a> Room<'a> {
    async fn open(relay: &Relay, group: Uuid, people: &'a [Person]) -> Outcome<Self> {
        let (ears, mut listening) = (Arc::<Ears>::default(), JoinSet::new());
        let open: Vec<_> = people.iter().skip(1).map(|person| Socket::open(relay.address, person)).collect();
        let sockets: Vec<_> = stream::iter(open).buffer_unordered(AT_A_TIME).try_collect().await?;
        for socket in sockets {
            listening.spawn(listen(socket, group, Arc::clone(&ears)));
        }
        // The log is read from its beginning before an entry can come live.
        sleep(Duration::from_secs(2)).await;
        ears.entries.store(0, Relaxed);
        Ok(Self { group, people, ears, listening, stamps: Stamps::new()? })
    }

    fn first(&self) -> Outcome<&Person> {
        Ok(self.people.first().ok_or("nobody was registered")?)
    }

    /// How many hear each entry, beside its sender.
    fn listeners(&self) -> u64 {
        u64::try_from(self.listening.len()).unwrap_or_default()
    }

    /// Sends one message after the other; how long each was on its way to the last member, in microseconds.
    async fn one_by_one(&self, socket: &mut Socket, options: &Options) -> Outcome<Vec<u32>> {
        let (mut latencies, mut count, start) = (Vec::new(), 0, Instant::now());
        let head = group_send_head(self.group, &body(options.size));
        while start.elapsed().as_secs_f64() < options.seconds || count == 0 {
            count += 1;
            let id = self.stamps.id(Instant::now(), 0, count);
            socket.feed(format!("{head}{id}\"}}")).await?;
            socket.flush().await?;
            self.ears.until(u64::from(count) * self.listeners()).await?;
            latencies.push(self.stamps.age(id));
            let mut is_answered = false;
            while !is_answered {
                socket.hear(|heard| is_answered |= matches!(heard, Heard::Sent(_))).await?;
            }
            sleep(GAP).await;
        }
        Ok(latencies)
    }

    /// Keeps sends under way, until everybody has everything.
    async fn at_once(&self, socket: &mut Socket, options: &Options, meter: &mut Meter) -> Outcome<Value> {
        let head = group_send_head(self.group, &body(options.size));
        let (before, read, start) = (self.ears.entries.load(Relaxed), meter.read().await?, Instant::now());
        let (mut sent, mut answered, mut refused) = (0_u32, 0, 0_u32);
        while start.elapsed().as_secs_f64() < options.seconds || answered < sent {
            while start.elapsed().as_secs_f64() < options.seconds
                && usize::try_from(sent - answered)? < options.in_flight
            {
                sent += 1;
                let id = self.stamps.id(Instant::now(), 1, sent);
                socket.feed(format!("{head}{id}\"}}")).await?;
            }
            socket.flush().await?;
            socket
                .hear(|heard| match heard {
                    Heard::Sent(_) => answered += 1,
                    Heard::Error(why) => {
                        eprintln!("a send was refused: {why}");
                        answered += 1;
                        refused += 1;
                    }
                    _ => {}
                })
                .await?;
        }
        self.ears.until(before + u64::from(sent - refused) * self.listeners()).await?;
        let used = meter.read().await?.since(&read);
        let rate = f64::from(sent - refused) * 1e6 / used.wall;
        let each = |micros: f64| micros / f64::from((sent - refused).max(1));
        println!(
            "all connected and acking: {rate:.0} sends/s, each to {} devices; CPU ms a send: relay {:.1}, Postgres {:.1}, \
             driver {:.1}",
            self.listeners(),
            each(used.relay) / 1e3,
            each(used.postgres) / 1e3,
            each(used.driver) / 1e3
        );
        Ok(json!({
            "sends_per_s": rate, "refused": refused, "relay_cpu_ms": each(used.relay) / 1e3,
            "postgres_cpu_ms": each(used.postgres) / 1e3, "driver_cpu_ms": each(used.driver) / 1e3,
        }))
    }
}

/// Hears every entry and acks what has come.
async fn listen(mut socket: Socket, group: Uuid, ears: Arc<Ears>) {
    loop {
        let mut last = None;
        let heard = socket
            .hear(|heard| {
                if let Heard::Entry(position) = heard {
                    last = Some(position);
                    ears.hear();
                }
            })
            .await;
        let acked = match (heard, last) {
            (Ok(()), Some(position)) => send(&mut socket, ack_entries(group, position)).await,
            (heard, _) => heard,
        };
        if let Err(error) = acked {
            eprintln!("a member stopped listening: {error}");
            return;
        }
    }
}

async fn send(socket: &mut Socket, frame: String) -> Outcome<()> {
    socket.feed(frame).await?;
    socket.flush().await
}

/// A few send, each with several under way, while the others are away.
async fn away(
    relay: &Relay,
    group: Uuid,
    people: &[Person],
    options: &Options,
    meter: &mut Meter,
) -> Outcome<Value> {
    let tally: &'static Tally = Box::leak(Box::default());
    let mut lanes = Vec::new();
    for (number, person) in people.iter().take(SENDERS).enumerate() {
        let socket = Socket::open(relay.address, person).await?;
        let head = group_send_head(group, &body(options.size));
        let number = u32::try_from(number)? + 2;
        lanes.push(Lane::Socket(Box::new(SocketLane::new(socket, head, number, options.in_flight))));
    }
    let (read, start) = (meter.read().await?, Instant::now());
    let pace = Pace { start, until: start + Duration::from_secs_f64(options.seconds), gap: None };
    lanes::run(lanes, pace, Stamps::new()?, tally).await?;
    let (used, counts) = (meter.read().await?.since(&read), tally.counts());
    #[expect(clippy::cast_precision_loss, reason = "counts of a run are far below 2^52")]
    let committed = counts.committed as f64;
    let rate = committed * 1e6 / used.wall;
    println!(
        "all but {SENDERS} away: {rate:.0} sends/s; CPU µs a send: relay {:.1}, Postgres {:.1}",
        used.relay / committed,
        used.postgres / committed
    );
    Ok(json!({
        "sends_per_s": rate, "refused": counts.refused, "relay_cpu_us": used.relay / committed,
        "postgres_cpu_us": used.postgres / committed,
    }))
}
