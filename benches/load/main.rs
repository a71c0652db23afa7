//! What a whole relay carries: it is started as a process of its own, registered with, and sent through by sockets or
//! REST. Every message counts when it is committed, in the receiver's hands and acked. benches/README.md says how to
//! run it and how to read it.

mod bundles;
mod frames;
mod groups;
mod idle;
mod lanes;
#[path = "../../tests/relay/support/limits.rs"]
mod limits;
mod load;
mod meter;
mod options;
mod people;
mod raw;
mod receiver;
mod relay;
mod rest;
mod sender;
mod storm;

use std::{error::Error, fs};

use clap::Parser;
use serde_json::{Value, json};

use options::Options;
use people::Registrar;
use relay::Relay;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

#[tokio::main]
async fn main() -> Outcome<()> {
    let options = Options::parse().settled();
    let relay = Relay::start(&options).await?;
    let measured = measure(&relay, &options).await;
    relay.stop().await?;
    let figures = measured?;
    if let Some(path) = &options.json {
        fs::write(path, format!("{figures}\n"))?;
    }
    println!("{figures}");
    Ok(())
}

async fn measure(relay: &Relay, options: &Options) -> Outcome<Value> {
    let registrar = Registrar::new(relay.address)?;
    let mut figures = json!({ "engines": options.engines.name() });
    let (name, found) = match (options.bundles, options.storm, options.idle, options.group) {
        (Some(takers), ..) => ("bundles", bundles::run(relay, &registrar, options, takers).await?),
        (None, Some(devices), ..) => ("storm", storm::run(relay, &registrar, options, devices).await?),
        (None, None, Some(devices), _) => ("idle", idle::run(relay, &registrar, devices).await?),
        (None, None, None, Some(members)) => {
            ("group", groups::run(relay, &registrar, options, usize::from(members)).await?)
        }
        (None, None, None, None) => ("load", load::run(relay, &registrar, options).await?),
    };
    figures[name] = found;
    Ok(figures)
}
