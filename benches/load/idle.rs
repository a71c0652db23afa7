//! What a connection that does nothing costs.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{Outcome, frames::Socket, meter::Meter, people::Registrar, relay::Relay};

/// Connections that open at a time.
const AT_A_TIME: usize = 32;

/// How long the relay is left alone before its memory and its CPU are read.
const REST: Duration = Duration::from_secs(5);

pub(crate) async fn run(relay: &Relay, registrar: &Registrar, devices: usize) -> Outcome<Value> {
    let people = registrar.register(devices).await?;
    let mut meter = Meter::new(relay).await?;
    let before_kb = meter.resident_kb()?;
    let open = people.iter().map(|person| Socket::open(relay.address, person));
    let open: Vec<_> = open.collect();
    let sockets: Vec<Socket> = stream::iter(open).buffer_unordered(AT_A_TIME).try_collect().await?;
    sleep(REST).await;
    let read = meter.read().await?;
    sleep(REST).await;
    let used = meter.read().await?.since(&read);
    let after_kb = meter.resident_kb()?;
    #[expect(clippy::cast_precision_loss, reason = "kilobytes of a process")]
    let each_kb = (after_kb.saturating_sub(before_kb)) as f64 / sockets.len().max(1) as f64;
    let (relay_percent, postgres_percent) =
        (used.relay / used.wall * 100.0, used.postgres / used.wall * 100.0);
    println!(
        "{} idle connections: {each_kb:.1} kB each ({before_kb} to {after_kb} kB); relay {relay_percent:.1} %, Postgres \
         {postgres_percent:.1} % of a core; started in {:.0} ms",
        sockets.len(),
        relay.started_in.as_secs_f64() * 1000.0
    );
    Ok(json!({
        "connections": sockets.len(), "rss_before_kb": before_kb, "rss_after_kb": after_kb,
        "kb_each": each_kb, "relay_percent": relay_percent, "postgres_percent": postgres_percent,
        "start_ms": relay.started_in.as_secs_f64() * 1000.0,
    }))
}
