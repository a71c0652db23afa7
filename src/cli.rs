//! The command line: serve (the default), migrate, openapi, healthcheck, and what backups need.

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    signal::unix::{SignalKind, signal},
    time::timeout,
};

use crate::{
    api, app,
    config::{Config, LogFormat},
    domain::{Clock, NetworkKey, SystemClock},
    telemetry,
    wire::Time,
};

/// A zero-knowledge relay for Signal and MLS clients. Settings come from the environment and .env; see .env.example.
#[derive(Debug, Parser)]
#[command(name = "restante", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the relay (the default)
    Serve,
    /// Bring the store's schema up to date and stop
    Migrate,
    /// Print the OpenAPI document
    Openapi,
    /// Ask the relay of these settings whether it is ready; exit 0 if it is
    Healthcheck,
    /// Print the number of the newest schema that this relay knows
    Schema,
    /// Copy the embedded database to a new file, also while the relay runs, and print its schema (see scripts/backup)
    Backup {
        /// The file to make
        file: PathBuf,
    },
    /// List the address networks that are blocked, or lift blocks, also while the relay runs
    Blocks {
        #[command(subcommand)]
        act: BlocksAct,
    },
    /// Make a store that was restored from a backup fit to be served; always, and before it is (see scripts/restore)
    Restored,
}

#[derive(Debug, Subcommand)]
enum BlocksAct {
    /// Print each block: the network's keyed hash, how often it was blocked in a row, and until when
    List,
    /// End blocks, and forget them; every node follows within seconds
    Clear {
        /// A hash as listed, or an address of the network
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        network: Option<String>,
        /// Every block
        #[arg(long)]
        all: bool,
    },
}

/// How long a health check waits.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);

impl Arguments {
    /// Does what the command line asks for. What goes wrong is told on standard error.
    pub async fn run(self) -> ExitCode {
        let command = self.command.unwrap_or(Command::Serve);
        match command {
            Command::Openapi => {
                print!("{}", api::document_text());
                return ExitCode::SUCCESS;
            }
            Command::Schema => {
                println!("{}", app::newest_schema());
                return ExitCode::SUCCESS;
            }
            _ => {}
        }
        let config = match Config::load() {
            Ok(config) => config,
            Err(faults) => {
                eprintln!("the settings have faults:\n{faults}");
                return ExitCode::from(2);
            }
        };
        let done = match command {
            Command::Serve => serve(config).await,
            Command::Migrate => app::migrate(&config).await.map_err(|error| error.to_string()),
            Command::Healthcheck => healthcheck(&config).await.map_err(|error| error.to_string()),
            Command::Backup { file } => backup(&config, &file).await,
            Command::Blocks { act } => blocks(&config, act).await,
            Command::Restored => restored(&config).await,
            Command::Openapi | Command::Schema => Ok(()),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                ExitCode::FAILURE
            }
        }
    }
}

async fn serve(config: Config) -> Result<(), String> {
    let format = config.log_format;
    telemetry::start(&config.log_filter, format)?;
    if !config.plaintext_guard {
        tracing::warn!("PLAINTEXT_GUARD=off: readable bodies are taken, and so the relay may hold plaintext");
    }
    if config.auth_mode == crate::config::AuthMode::Open {
        tracing::warn!("AUTH_MODE=open: every local caller is trusted; for experiments only");
    }
    let relay = app::start(config, Arc::new(SystemClock)).await.map_err(|error| error.to_string())?;
    announce(&relay, format);
    relay.run_until(asked_to_stop()).await.map_err(|error| error.to_string())
}

async fn backup(config: &Config, file: &Path) -> Result<(), String> {
    let schema = app::backup(config, file).await.map_err(|error| error.to_string())?;
    println!("{schema}");
    Ok(())
}

async fn blocks(config: &Config, act: BlocksAct) -> Result<(), String> {
    let told = |error: app::StartError| error.to_string();
    let BlocksAct::Clear { network, .. } = act else {
        for block in app::blocks(config, SystemClock.now()).await.map_err(told)? {
            let until = Time(block.until).text();
            println!("{} level={} until={until}", block.network.text(), block.level);
        }
        return Ok(());
    };
    let lifted = app::lift_blocks(config, which(network.as_deref())?).await.map_err(told)?;
    println!("blocks lifted: {lifted}");
    Ok(())
}

/// Which blocks the operator names; all without a name.
fn which(network: Option<&str>) -> Result<app::Which, String> {
    let Some(text) = network else { return Ok(app::Which::All) };
    let named = NetworkKey::parse(text).map(app::Which::Named);
    let of_address = || text.parse().ok().map(app::Which::Of);
    named.or_else(of_address).ok_or_else(|| format!("{text} is neither a hash as listed nor an address"))
}

async fn restored(config: &Config) -> Result<(), String> {
    let done = app::restored(config, &(Arc::new(SystemClock) as Arc<dyn Clock>))
        .await
        .map_err(|error| error.to_string())?;
    let app::AfterRestore { store, expired, hot_state } = done;
    println!("one-time keys erased: {}", store.keys);
    println!("sessions ended: {}", store.sessions);
    println!("mailboxes moved on: {}", store.mailboxes);
    println!("messages expired meanwhile: {expired}");
    match hot_state {
        None => {}
        Some(Ok(keys)) => println!("keys erased in Redis: {keys}"),
        Some(Err(error)) => eprintln!("{error}; its queues of before are ignored, and end by themselves"),
    }
    Ok(())
}

fn announce(relay: &app::Relay, format: LogFormat) {
    let (version, address, engines) = (env!("CARGO_PKG_VERSION"), relay.address(), relay.engines());
    match format {
        LogFormat::Json => {
            tracing::info!(version, %address, engines, metrics = relay.metrics_address().map(tracing::field::display), "listening");
        }
        LogFormat::Pretty => {
            println!("restante {version} listens on http://{address} ({engines})");
            println!("try: curl http://{address}/health");
            if let Some(address) = relay.metrics_address() {
                println!("metrics: http://{address}/metrics");
            }
        }
    }
}

/// Ready on SIGTERM or SIGINT.
async fn asked_to_stop() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be heard; only a kill stops this process");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

async fn healthcheck(config: &Config) -> io::Result<()> {
    let host = if config.host.is_unspecified() { [127, 0, 0, 1].into() } else { config.host };
    let asked = async {
        let mut stream = TcpStream::connect((host, config.port)).await?;
        stream.write_all(b"GET /health/ready HTTP/1.0\r\nhost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(HEALTHCHECK_TIMEOUT, asked).await.map_err(io::Error::other)??;
    let status = answer.split_whitespace().nth(1).unwrap_or("no status");
    if status == "200" { Ok(()) } else { Err(io::Error::other(format!("the relay is not ready: {status}"))) }
}
