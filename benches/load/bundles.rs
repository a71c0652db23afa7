//! Bundles of one device, taken by many at once, each with a one-time pre-key that nobody else gets.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use curve25519_dalek::MontgomeryPoint;
use futures_util::future::try_join_all;
use rand::Rng;
use reqwest::Client;
use serde_json::{Value, json};

use crate::{
    Outcome,
    load::percentiles,
    meter::Meter,
    options::Options,
    people::{Person, Registrar},
    relay::Relay,
};

/// Pre-keys in one upload; the relay of this run lets a device have as many.
const UPLOAD: u32 = 900;

/// The ids of the pre-keys that a registration brings end here.
const REGISTERED: u32 = 50;

pub(crate) async fn run(
    relay: &Relay,
    registrar: &Registrar,
    options: &Options,
    takers: usize,
) -> Outcome<Value> {
    let people = registrar.register(takers + 1).await?;
    let (owner, people) = people.split_first().ok_or("nobody was registered")?;
    let client = Client::builder().no_proxy().build()?;
    let keys = format!("http://{}/api/v1/keys", relay.address);
    take_all(&client, &keys, owner, people, REGISTERED).await?;
    let (mut meter, mut latencies, mut taking) = (Meter::new(relay).await?, Vec::new(), Duration::ZERO);
    let (mut relay_cpu, mut postgres_cpu, mut next_id) = (0.0, 0.0, REGISTERED + 1);
    while taking.as_secs_f64() < options.seconds {
        bring(&client, &keys, owner, next_id).await?;
        next_id += UPLOAD;
        let (read, start) = (meter.read().await?, Instant::now());
        latencies.extend(take_all(&client, &keys, owner, people, UPLOAD).await?);
        taking += start.elapsed();
        let used = meter.read().await?.since(&read);
        relay_cpu += used.relay;
        postgres_cpu += used.postgres;
    }
    let taken = latencies.len();
    let each = |micros: f64| micros / f64::from(u32::try_from(taken).unwrap_or(u32::MAX));
    let rate = 1.0 / each(taking.as_secs_f64());
    println!("{takers} takers: {rate:.0} bundles/s, each with a one-time pre-key");
    Ok(json!({
        "takers": takers, "taken": taken, "per_second": rate,
        "relay_cpu_us": each(relay_cpu), "postgres_cpu_us": each(postgres_cpu),
        "taken_ms": percentiles("asked to taken", latencies),
    }))
}

/// Brings fresh one-time pre-keys.
async fn bring(client: &Client, keys: &str, owner: &Person, first: u32) -> Outcome<()> {
    let key = |id| {
        let public = MontgomeryPoint::mul_base_clamped(rand::rng().random()).to_bytes();
        json!({ "id": id, "public_key": STANDARD.encode(public) })
    };
    let body: Vec<_> = (first..first + UPLOAD).map(key).collect();
    let url = format!("{keys}/prekeys/me/me");
    let answer = client.post(url).bearer_auth(&owner.token).json(&body).send().await?;
    if answer.status() == 200 { Ok(()) } else { Err(answer.text().await?.into()) }
}

/// Takes this many bundles, by all takers at once, and tells how long each took in microseconds.
async fn take_all(
    client: &Client,
    keys: &str,
    owner: &Person,
    takers: &[Person],
    count: u32,
) -> Outcome<Vec<u32>> {
    let url = format!("{keys}/bundle/{}", owner.user);
    let share = |taker: usize| (count as usize + taker) / takers.len();
    let lanes = takers.iter().enumerate().map(|(taker, person)| {
        let url = &url;
        async move {
            let mut latencies = Vec::new();
            for _ in 0..share(taker) {
                let asked = Instant::now();
                let answer = client.get(url).bearer_auth(&person.token).send().await?;
                let bundle: Value = answer.json().await?;
                if bundle["onetime_prekey"].is_null() {
                    return Err(format!("a bundle without a one-time pre-key: {bundle}").into());
                }
                latencies.push(u32::try_from(asked.elapsed().as_micros())?);
            }
            Outcome::Ok(latencies)
        }
    });
    Ok(try_join_all(lanes).await?.concat())
}
