//! The command line: serve (the default), migrate, openapi, healthcheck, config, and what backups need.

mod out;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use ureq::{Agent, tls::TlsConfig};

use crate::{
    api,
    app::{self, Outfit},
    config::{self, Config, Faults, InEffect, Loaded, LogFormat},
    domain::{Clock, NetworkKey, SystemClock},
    telemetry,
    wire::Time,
};
use out::{complain, say, say_line};

/// A zero-knowledge relay for Signal and MLS clients. Settings come from the environment, which wins, from the file named
/// by --config and from .env; `restante config example` prints them all.
#[derive(Debug, Parser)]
#[command(name = "restante", version)]
pub struct Arguments {
    /// A TOML file with settings, beside the environment
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
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
    /// Look at the settings
    Config {
        #[command(subcommand)]
        act: Look,
    },
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
    Restored {
        /// Whatever the settings choose: the embedded store in this folder, and no Redis
        #[arg(long, value_name = "FOLDER")]
        data_dir: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
enum Look {
    /// Tell all faults of the settings and of the files they name; exit 0 if there are none, else 2
    Check,
    /// Print the settings in effect and where each comes from, without secrets
    Print,
    /// Print the value of one setting as the relay takes it, a secret too: for scripts
    Value {
        /// Its name, as in .env.example
        name: String,
    },
    /// Print a settings file that describes every setting and shows its default
    Example,
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
        match self.act().await {
            Ok(()) => ExitCode::SUCCESS,
            Err(Failure::Settings(faults)) => {
                complain(faults);
                ExitCode::from(2)
            }
            Err(Failure::Act(error)) => {
                complain(error);
                ExitCode::FAILURE
            }
        }
    }

    async fn act(self) -> Result<(), Failure> {
        let file = self.config.as_deref();
        match self.command.unwrap_or(Command::Serve) {
            Command::Openapi => say(api::document_text())?,
            Command::Schema => say_line(app::newest_schema())?,
            Command::Config { act } => look(&act, file)?,
            Command::Serve => serve(outfit(file)?).await?,
            Command::Migrate => app::migrate(&settings(file)?.config).await?,
            Command::Healthcheck => healthcheck(&settings(file)?.config)?,
            Command::Backup { file: copy } => backup(&settings(file)?.config, &copy).await?,
            Command::Blocks { act } => blocks(&settings(file)?.config, act).await?,
            Command::Restored { data_dir } => restored(embedded_in(settings(file)?.config, data_dir)).await?,
        }
        Ok(())
    }
}

/// Why a command was not done, in words for the operator.
enum Failure {
    /// By the settings.
    Settings(String),
    /// By what was to be done.
    Act(String),
}

impl From<String> for Failure {
    fn from(error: String) -> Self {
        Self::Act(error)
    }
}

impl From<app::StartError> for Failure {
    fn from(error: app::StartError) -> Self {
        Self::Act(error.to_string())
    }
}

fn faulty(faults: &Faults) -> Failure {
    Failure::Settings(format!("the settings have faults:\n{faults}"))
}

/// The settings, for what is done beside a relay: what only a relay needs, such as its certificate, may be elsewhere.
fn settings(file: Option<&Path>) -> Result<Loaded, Failure> {
    Config::load(file).map_err(|faults| faulty(&faults))
}

/// The settings with all that a relay needs.
fn outfit(file: Option<&Path>) -> Result<Outfit, Failure> {
    Outfit::load(Config::reading(file)).map_err(|faults| faulty(&faults))
}

fn look(act: &Look, file: Option<&Path>) -> Result<(), Failure> {
    match act {
        Look::Check => {
            outfit(file)?;
            say_line("the settings are sound")?;
        }
        Look::Print => {
            for InEffect { name, value, source } in settings(file)?.in_effect {
                say_line(format_args!("{name} = {value}  # {source}"))?;
            }
        }
        Look::Value { name } => {
            let value = Config::value(file, name).map_err(|faults| Failure::Settings(faults.to_string()))?;
            say_line(value)?;
        }
        Look::Example => say(config::example())?,
    }
    Ok(())
}

/// The settings, or those of the embedded engines in a folder if one is named.
fn embedded_in(config: Config, folder: Option<PathBuf>) -> Config {
    match folder {
        Some(data_dir) => Config { data_dir, database_url: None, redis_url: None, ..config },
        None => config,
    }
}

async fn serve(outfit: Outfit) -> Result<(), String> {
    let config = outfit.config();
    let format = config.log_format;
    // From here on a SIGHUP ends nothing: with TLS it has the certificate read again, and otherwise it means nothing.
    let _hangups = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    let telemetry = telemetry::start(&config.log_filter, format, &config.traces)?;
    if !config.plaintext_guard {
        tracing::warn!("PLAINTEXT_GUARD=off: readable bodies are taken, and so the relay may hold plaintext");
    }
    if config.auth_mode == crate::config::AuthMode::Open {
        tracing::warn!("AUTH_MODE=open: every local caller is trusted; for experiments only");
    }
    if config.metrics_token.is_none() && config.metrics_address.is_some_and(|at| !at.ip().is_loopback()) {
        tracing::warn!("METRICS_ADDRESS can be reached from other machines, and METRICS_TOKEN is not set");
    }
    if let Err(error) = app::allow_open_files() {
        tracing::warn!(%error, "the soft limit of open files cannot be raised to the hard one");
    }
    if let Some(short) = app::too_few_files(config) {
        tracing::warn!("{short}");
    }
    if is_in_the_clear(config) {
        tracing::warn!(
            "HOST is not a loopback address, and there is neither TLS (TLS_CERT_PATH, TLS_KEY_PATH) nor a proxy \
             (TRUSTED_PROXIES): tokens cross the network in the clear"
        );
    }
    let relay = app::start_with(outfit, Arc::new(SystemClock)).await.map_err(|error| error.to_string())?;
    announce(&relay, format);
    let ended = relay.run_until(asked_to_stop()).await.map_err(|error| error.to_string());
    tokio::task::spawn_blocking(|| telemetry.finish())
        .await
        .map_err(|_| "the traces could not be finished")?;
    ended
}

async fn backup(config: &Config, file: &Path) -> Result<(), String> {
    let schema = app::backup(config, file).await.map_err(|error| error.to_string())?;
    say_line(schema)
}

async fn blocks(config: &Config, act: BlocksAct) -> Result<(), String> {
    let told = |error: app::StartError| error.to_string();
    let BlocksAct::Clear { network, .. } = act else {
        for block in app::blocks(config, SystemClock.now()).await.map_err(told)? {
            let until = Time(block.until).text();
            say_line(format_args!("{} level={} until={until}", block.network.text(), block.level))?;
        }
        return Ok(());
    };
    let lifted = app::lift_blocks(config, which(network.as_deref())?).await.map_err(told)?;
    say_line(format_args!("blocks lifted: {lifted}"))
}

/// Which blocks the operator names; all without a name.
fn which(network: Option<&str>) -> Result<app::Which, String> {
    let Some(text) = network else { return Ok(app::Which::All) };
    let named = NetworkKey::parse(text).map(app::Which::Named);
    let of_address = || text.parse().ok().map(app::Which::Of);
    named.or_else(of_address).ok_or_else(|| format!("{text} is neither a hash as listed nor an address"))
}

async fn restored(config: Config) -> Result<(), String> {
    let done = app::restored(&config, &(Arc::new(SystemClock) as Arc<dyn Clock>))
        .await
        .map_err(|error| error.to_string())?;
    let app::AfterRestore { store, expired, hot_state } = done;
    say_line(format_args!("one-time keys erased: {}", store.keys))?;
    say_line(format_args!("sessions ended: {}", store.sessions))?;
    say_line(format_args!("mailboxes moved on: {}", store.mailboxes))?;
    say_line(format_args!("messages expired meanwhile: {expired}"))?;
    match hot_state {
        None => Ok(()),
        Some(Ok(keys)) => say_line(format_args!("keys erased in Redis: {keys}")),
        Some(Err(error)) => {
            complain(format_args!("{error}; its queues of before are ignored, and end by themselves"));
            Ok(())
        }
    }
}

fn announce(relay: &app::Relay, format: LogFormat) {
    let (version, engines) = (env!("CARGO_PKG_VERSION"), relay.engines());
    let (scheme, address) = (relay.scheme(), relay.address());
    match format {
        LogFormat::Json => {
            tracing::info!(version, scheme, %address, engines, metrics = relay.metrics_address().map(tracing::field::display), "listening");
        }
        LogFormat::Pretty => {
            let metrics = relay.metrics_address();
            let metrics = metrics.map(|address| format!("metrics: http://{address}/metrics\n"));
            let told = say(format_args!(
                "restante {version} listens on {scheme}://{address} ({engines})\n\
                 try: curl {scheme}://{address}/health\n{}",
                metrics.unwrap_or_default()
            ));
            if let Err(error) = told {
                tracing::warn!(error);
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

/// Asks the relay of these settings whether it is ready. It may show a certificate for the name that clients dial, or one
/// that it is about to change: which is not looked at, because nothing secret is said to this machine.
fn healthcheck(config: &Config) -> Result<(), String> {
    let host = if config.host.is_unspecified() { [127, 0, 0, 1].into() } else { config.host };
    let scheme = if config.transport.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{}/health/ready", SocketAddr::new(host, config.port));
    let agent = Agent::config_builder()
        .timeout_global(Some(HEALTHCHECK_TIMEOUT))
        .tls_config(TlsConfig::builder().disable_verification(true).build())
        .http_status_as_error(false)
        .proxy(None)
        .max_redirects(0)
        .build()
        .new_agent();
    let answer = agent.get(&url).call().map_err(|error| format!("{url} does not answer: {error}"))?;
    match answer.status().as_u16() {
        200 => Ok(()),
        status => Err(format!("the relay is not ready: {url} answers {status}")),
    }
}

/// Whether strangers on the network can read along: no TLS here, and no proxy that could have it.
fn is_in_the_clear(config: &Config) -> bool {
    config.transport.tls.is_none() && !config.host.is_loopback() && config.proxies.trusted.is_empty()
}
