//! A reconnect storm: devices with waiting messages come back all at once.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    Outcome,
    frames::{Heard, Socket, Stamps},
    lanes::Tally,
    load::percentiles,
    meter::Meter,
    options::Options,
    people::{Person, Registrar},
    receiver::send_ack,
    relay::Relay,
    rest::RestLane,
};

/// How long a device waits for its messages.
const PATIENCE: Duration = Duration::from_mins(1);

/// Sends that run at a time while messages are put in wait.
const AT_A_TIME: usize = 64;

pub(crate) async fn run(
    relay: &Relay,
    registrar: &Registrar,
    options: &Options,
    devices: usize,
) -> Outcome<Value> {
    let people = registrar.register(devices + 1).await?;
    let (sender, people) = people.split_first().ok_or("nobody was registered")?;
    fill(relay, options, sender, people).await?;
    println!("{devices} devices have {} messages waiting each", options.waiting);
    let mut meter = Meter::new(relay).await?;
    let (read, start) = (meter.read().await?, Instant::now());
    let mut coming = JoinSet::new();
    for person in people {
        let person = Person { user: person.user, token: person.token.clone() };
        let (address, waiting) = (relay.address, options.waiting);
        coming.spawn(async move {
            timeout(PATIENCE, drain(address, person, waiting))
                .await
                .map_err(|_| "a device was not drained")??;
            Outcome::Ok(u32::try_from(start.elapsed().as_micros())?)
        });
    }
    let mut drained = Vec::new();
    while let Some(ended) = coming.join_next().await {
        drained.push(ended??);
    }
    let used = meter.read().await?.since(&read);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "all drained after {seconds:.2} s; relay CPU {:.2} s, Postgres {:.2} s, driver {:.2} s",
        used.relay / 1e6,
        used.postgres / 1e6,
        used.driver / 1e6
    );
    Ok(json!({
        "devices": devices, "waiting": options.waiting, "seconds": seconds,
        "drained_ms": percentiles("storm to drained", drained),
        "relay_cpu_s": used.relay / 1e6, "postgres_cpu_s": used.postgres / 1e6,
    }))
}

/// Puts messages into the mailboxes of devices that are away.
async fn fill(relay: &Relay, options: &Options, sender: &Person, people: &[Person]) -> Outcome<()> {
    let (stamps, tally) = (Stamps::new()?, Tally::default());
    let put = |(number, person): (usize, &Person)| {
        let (user, tally, lane) = (person.user, &tally, u32::try_from(number));
        async move {
            let mut lane = RestLane::open(relay.address, sender, user, options.size, lane?).await?;
            for _ in 0..options.waiting {
                lane.send_one(Instant::now(), stamps, tally).await?;
            }
            Outcome::Ok(())
        }
    };
    let all: Vec<_> = people.iter().enumerate().map(put).collect();
    stream::iter(all).buffer_unordered(AT_A_TIME).try_collect::<()>().await?;
    match tally.counts().refused {
        0 => Ok(()),
        refused => Err(format!("{refused} sends were refused").into()),
    }
}

/// Connects, takes and acks everything, and sees `queue_drained`.
async fn drain(address: std::net::SocketAddr, person: Person, waiting: usize) -> Outcome<()> {
    let mut socket = Socket::open(address, &person).await?;
    let (mut ids, mut acked, mut drained) = (Vec::new(), 0, false);
    while acked < waiting || !drained {
        socket
            .hear(|heard| match heard {
                Heard::Message(id) => ids.push(id),
                Heard::Acked(count) => acked += usize::try_from(count).unwrap_or_default(),
                Heard::Drained => drained = true,
                Heard::Error(why) => eprintln!("refused: {why}"),
                Heard::Sent(_) | Heard::Entry(_) | Heard::Other => {}
            })
            .await?;
        send_ack(&mut socket, &mut ids).await?;
    }
    Ok(())
}
