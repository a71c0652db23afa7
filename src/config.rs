//! Every setting: read from the environment, a file and `.env`, typed, checked, all faults told at once.
//!
//! `.env.example` describes each of them; a test holds that file against [`Config::known`].

mod combinations;
mod kinds;
mod names;
mod reader;
mod shown;
mod sources;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

pub use kinds::{
    AddressLimits, AdmissionAlgorithm, AdmissionSettings, AuthMode, ClientLimits, FetchLimits,
    ForwardedHeader, GroupLimits, LogFormat, MasterSecret, MlsSettings, Proxies, RateLimits,
    RegistrationMode, SocketTimes, StrictTransport, TlsFiles, TraceSettings, Transport, is_within,
};
use reader::Reader;
use secrecy::SecretString;
pub use shown::{InEffect, Kind, Known, example};
use sources::Layer;
pub use sources::Source;

use crate::store;

/// Every setting.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each field is described under its name in .env.example")]
pub struct Config {
    pub host: IpAddr,
    pub port: u16,
    pub metrics_address: Option<SocketAddr>,
    pub metrics_token: Option<SecretString>,
    pub workers: usize,
    pub transport: Transport,
    pub log_filter: String,
    pub log_format: LogFormat,
    pub traces: TraceSettings,
    pub data_dir: PathBuf,
    pub database_url: Option<SecretString>,
    pub redis_url: Option<SecretString>,
    pub redis_prefix: String,
    pub max_db_connections: u32,
    pub master_secret: Option<MasterSecret>,
    pub token_signing_key: Option<SecretString>,
    pub relay_name: String,
    pub auth_mode: AuthMode,
    pub auth_open_allow_remote: bool,
    pub registration: RegistrationMode,
    pub admission: AdmissionSettings,
    pub proxies: Proxies,
    pub access_token_life: Duration,
    pub refresh_token_life: Duration,
    pub plaintext_guard: bool,
    pub cors_allowed_origins: Vec<String>,
    pub queue_life: Duration,
    pub socket: SocketTimes,
    pub shutdown_timeout: Duration,
    pub mls: MlsSettings,
    pub limits: ClientLimits,
    pub group_limits: GroupLimits,
    pub rate_limits: RateLimits,
    pub address_limits: AddressLimits,
    pub fetch_limits: FetchLimits,
    pub store_limits: store::Limits,
}

/// Everything that is wrong with the settings, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct Faults(pub Vec<String>);

/// The settings, and where each comes from.
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// All of them as they may be shown.
    pub in_effect: Vec<InEffect>,
}

/// Settings that were read, before it is told what is wrong with them.
pub struct Reading {
    config: Config,
    reader: Reader,
}

impl From<Config> for Reading {
    /// Settings that are known to be sound by themselves.
    fn from(config: Config) -> Self {
        Self { config, reader: Reader::over(Vec::new()) }
    }
}

impl Reading {
    /// Has somebody load what the settings of these names lead to, and keeps the faults that are found. None without a try
    /// where one of these settings has a fault already, so that no fault is told twice.
    pub fn load<T>(
        &mut self,
        names: &[&str],
        load: impl FnOnce(&Config) -> Result<T, Vec<String>>,
    ) -> Option<T> {
        if !self.reader.knows(names) {
            return None;
        }
        load(&self.config).map_err(|faults| self.reader.faults.extend(faults)).ok()
    }

    /// The settings, if they are sound.
    ///
    /// # Errors
    /// All faults at once.
    pub fn done(self) -> Result<Loaded, Faults> {
        if !self.reader.faults.is_empty() {
            return Err(Faults(self.reader.faults));
        }
        Ok(Loaded { config: self.config, in_effect: self.reader.in_effect })
    }
}

impl Config {
    /// Reads the settings from `.env` in the current folder, if there is one, from `file`, if one is named, and from the
    /// environment. The later wins.
    ///
    /// # Errors
    /// All faults at once: values that cannot be, combinations that cannot be, names that look like typos.
    pub fn load(file: Option<&Path>) -> Result<Loaded, Faults> {
        Self::reading(file).done()
    }

    /// As [`Config::load`], for whoever looks for further faults before they are told.
    #[must_use]
    pub fn reading(file: Option<&Path>) -> Reading {
        Self::from_layers(Self::layers(file))
    }

    /// The value of one setting as [`Config::load`] takes it, secrets too; its default, perhaps empty, where nobody set it.
    /// What is wrong with other settings does not matter.
    ///
    /// # Errors
    /// When there is no such setting, or its value cannot be read.
    pub fn value(file: Option<&Path>, name: &str) -> Result<String, Faults> {
        let mut reader = Reader::over(Self::layers(file));
        if !reader.faults.is_empty() {
            return Err(Faults(reader.faults));
        }
        Self::read(&mut reader);
        let value = reader.value_of(name).unwrap_or_else(|| Err(format!("{name} is not a setting")));
        value.map_err(|fault| Faults(vec![fault]))
    }

    fn layers(file: Option<&Path>) -> Vec<Layer> {
        let mut layers = vec![sources::dot_env()];
        layers.extend(file.map(sources::file));
        layers.push(sources::environment());
        layers
    }

    /// Reads the settings from the variables of `.env` and from the environment's, which win.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_vars(
        dot_env: &BTreeMap<String, String>,
        env: &BTreeMap<String, String>,
    ) -> Result<Self, Faults> {
        let dot_env = Layer::of_text(Source::DotEnv, dot_env);
        let layers = vec![dot_env, Layer::of_text(Source::Environment, env)];
        Self::from_layers(layers).done().map(|loaded| loaded.config)
    }

    fn from_layers(layers: Vec<Layer>) -> Reading {
        let mut reader = Reader::over(layers);
        let config = Self::read(&mut reader);
        reader.check_names();
        config.check_combinations(&mut reader);
        Reading { config, reader }
    }

    /// Every setting there is, in the order of `.env.example`.
    #[must_use]
    pub fn known() -> Vec<Known> {
        let mut reader = Reader::over(Vec::new());
        Self::read(&mut reader);
        reader.known
    }

    /// Where the relay listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    fn read(reader: &mut Reader) -> Self {
        Self {
            host: reader.parsed("HOST", IpAddr::V4(Ipv4Addr::LOCALHOST), "an IP address"),
            port: reader.number("PORT", 8091, 0..=65_535),
            metrics_address: reader.address("METRICS_ADDRESS"),
            metrics_token: reader.secret("METRICS_TOKEN"),
            workers: reader.number("WORKERS", 0, 0..=1024),
            transport: Self::read_transport(reader),
            log_filter: reader.directives("RUST_LOG", "warn,restante=info"),
            log_format: reader
                .choice("LOG_FORMAT", &[("pretty", LogFormat::Pretty), ("json", LogFormat::Json)]),
            traces: TraceSettings {
                endpoint: reader.endpoint("OTEL_EXPORTER_OTLP_ENDPOINT", &["http://", "https://"]),
                service: reader.text("OTEL_SERVICE_NAME", "restante"),
            },
            data_dir: reader.text("DATA_DIR", "./restante-data").into(),
            database_url: reader.url("DATABASE_URL", &["postgres://", "postgresql://"]),
            redis_url: reader.redis("REDIS_URL"),
            redis_prefix: reader.text("REDIS_PREFIX", "restante"),
            max_db_connections: reader.number("MAX_DB_CONNECTIONS", 10, 6..=1000),
            master_secret: reader.master_secret("MASTER_SECRET"),
            token_signing_key: reader.secret("TOKEN_SIGNING_KEY"),
            relay_name: reader.text("RELAY_NAME", "localhost"),
            auth_mode: reader.choice("AUTH_MODE", &[("device", AuthMode::Device), ("open", AuthMode::Open)]),
            auth_open_allow_remote: reader
                .choice("AUTH_OPEN_ALLOW_REMOTE", &[("false", false), ("true", true)]),
            registration: reader.choice(
                "REGISTRATION",
                &[("open", RegistrationMode::Open), ("token", RegistrationMode::Token)],
            ),
            admission: admission(reader),
            proxies: Proxies {
                trusted: reader.networks("TRUSTED_PROXIES"),
                header: reader.choice(
                    "TRUSTED_PROXY_HEADER",
                    &[
                        ("x-forwarded-for", ForwardedHeader::XForwardedFor),
                        ("forwarded", ForwardedHeader::Forwarded),
                    ],
                ),
            },
            access_token_life: reader.seconds("ACCESS_TOKEN_TTL_SECONDS", 900, 10..=86_400),
            refresh_token_life: reader.days("REFRESH_TOKEN_TTL_DAYS", 7, 1..=365),
            plaintext_guard: reader.choice("PLAINTEXT_GUARD", &[("on", true), ("off", false)]),
            cors_allowed_origins: reader.list("CORS_ALLOWED_ORIGINS"),
            queue_life: reader.days("OFFLINE_QUEUE_TTL_DAYS", 30, 1..=30),
            socket: SocketTimes {
                heartbeat: reader.seconds("WS_HEARTBEAT_INTERVAL", 30, 1..=600),
                silence: reader.seconds("WS_CLIENT_TIMEOUT", 60, 2..=1200),
                stall: reader.seconds("WS_STALL_TIMEOUT", 30, 1..=600),
            },
            shutdown_timeout: reader.seconds("SHUTDOWN_TIMEOUT", 30, 1..=600),
            mls: MlsSettings {
                cipher_suites: reader.cipher_suites("MLS_CIPHER_SUITES", "1,2,3"),
                key_package_life: reader.days("KEY_PACKAGE_MAX_LIFETIME_DAYS", 90, 1..=365),
            },
            limits: ClientLimits {
                body: reader.number("MAX_BODY_BYTES", 64 << 10, 1024..=16 << 20),
                keys_body: reader.number("MAX_KEYS_BODY_BYTES", 1 << 20, 1024..=16 << 20),
                message_body: reader.number("MAX_MESSAGE_BODY_BYTES", 1 << 20, 1024..=16 << 20),
                envelope: reader.number("MAX_ENVELOPE_BYTES", 96 << 10, 1024..=4 << 20),
                send: reader.number_by_either(
                    "MAX_SEND_BYTES",
                    "RATE_LIMIT_MAX_MESSAGE_SIZE",
                    384 << 10,
                    &(1024..=8 << 20),
                ),
                group_body: reader.number("MAX_GROUP_BODY_BYTES", 4 << 20, 1024..=16 << 20),
                in_flight: reader.number("MAX_IN_FLIGHT", 256, 1..=1024),
            },
            group_limits: GroupLimits {
                invite_life: reader.days("INVITE_TTL_DAYS", 7, 1..=30),
                concurrency: reader.number("MLS_CONCURRENCY", 2, 1..=64),
            },
            rate_limits: rate_limits(reader),
            address_limits: address_limits(reader),
            fetch_limits: FetchLimits {
                pair: reader.number("FETCH_LIMIT_PER_PAIR", 30, 1..=1_000_000),
                target: reader.number("FETCH_LIMIT_PER_USER", 200, 2..=1_000_000),
                newcomers: reader.number("FETCH_LIMIT_FOR_NEW_USERS", 40, 1..=1_000_000),
            },
            store_limits: store::Limits {
                max_devices: reader.number("MAX_DEVICES", 10, 1..=127),
                max_prekeys: reader.number("MAX_PREKEYS", 200, 50..=1000),
                mailbox_items: reader.number("MAX_MAILBOX_ITEMS", 10_000, 1..=1_000_000),
                mailbox_items_per_sender: reader.number("MAX_MAILBOX_ITEMS_PER_SENDER", 1000, 1..=1_000_000),
                notice_life: Duration::from_hours(30 * 24),
                max_members: reader.number("MAX_GROUP_SIZE", 1500, 2..=1500),
                max_groups: reader.number("MAX_GROUPS_PER_USER", 2000, 1..=100_000),
                past_epochs: reader.number("MLS_MAX_PAST_EPOCHS", 2, 0..=16),
            },
        }
    }

    fn read_transport(reader: &mut Reader) -> Transport {
        Transport {
            tls: reader.tls_files("TLS_CERT_PATH", "TLS_KEY_PATH"),
            strict: reader.choice(
                "STRICT_TRANSPORT_SECURITY",
                &[
                    ("auto", StrictTransport::Auto),
                    ("on", StrictTransport::On),
                    ("off", StrictTransport::Off),
                ],
            ),
            max_connections: reader.number("MAX_CONNECTIONS", 20_000, 1..=1_000_000),
            max_connections_per_address: reader.number("MAX_CONNECTIONS_PER_ADDRESS", 1000, 0..=1_000_000),
            max_handshakes: reader.number("MAX_TLS_HANDSHAKES", 512, 1..=100_000),
            handshake: reader.seconds("TLS_HANDSHAKE_TIMEOUT", 10, 1..=120),
            head: reader.seconds("REQUEST_HEAD_TIMEOUT", 10, 2..=120),
            body: reader.seconds("REQUEST_BODY_TIMEOUT", 30, 1..=600),
            idle: reader.seconds("IDLE_TIMEOUT", 75, 1..=3600),
            least_pace: reader.number("MIN_ANSWER_PACE", 8 << 10, 1024..=1 << 20),
            max_unread: reader.number("MAX_UNREAD_BYTES", 256 << 20, 16 << 20..=64 << 30),
        }
    }
}

fn admission(reader: &mut Reader) -> AdmissionSettings {
    AdmissionSettings {
        key: reader.public_key("ADMISSION_KEY"),
        jwks: reader.secret("ADMISSION_JWKS"),
        algorithm: reader.choice(
            "ADMISSION_ALGORITHM",
            &[
                ("EdDSA", AdmissionAlgorithm::EdDsa),
                ("ES256", AdmissionAlgorithm::Es256),
                ("RS256", AdmissionAlgorithm::Rs256),
            ],
        ),
        audience: reader.text("ADMISSION_AUDIENCE", "restante"),
    }
}

fn rate_limits(reader: &mut Reader) -> RateLimits {
    RateLimits {
        messages: reader.number("RATE_LIMIT_MESSAGE_LIMIT", 600, 0..=1_000_000),
        acks: reader.number("RATE_LIMIT_ACK_LIMIT", 30_000, 0..=1_000_000),
        reads: reader.number("RATE_LIMIT_READ_LIMIT", 1200, 0..=1_000_000),
        keys: reader.number("RATE_LIMIT_KEYS_LIMIT", 600, 0..=1_000_000),
        groups: reader.number("RATE_LIMIT_GROUP_LIMIT", 300, 0..=1_000_000),
        joins: reader.number("RATE_LIMIT_JOIN_LIMIT", 120, 0..=1_000_000),
        account: reader.number("RATE_LIMIT_ACCOUNT_LIMIT", 120, 0..=1_000_000),
        openings: reader.number("RATE_LIMIT_OPEN_LIMIT", 60, 0..=1_000_000),
        devices_per_address: reader.number("RATE_LIMIT_DEVICES_PER_IP", 50, 1..=1_000_000),
        connections_per_address: reader.number("RATE_LIMIT_CONNECTION_LIMIT_PER_IP", 200, 1..=1_000_000),
        connections_per_user: reader.number("RATE_LIMIT_CONNECTION_LIMIT_PER_USER", 20, 1..=1_000_000),
        block_after: reader.number("RATE_LIMIT_BLOCK_AFTER", 300, 0..=1_000_000),
    }
}

fn address_limits(reader: &mut Reader) -> AddressLimits {
    AddressLimits {
        registrations: reader.number("REGISTER_LIMIT_PER_ADDRESS", 30, 1..=1_000_000),
        logins: reader.number("LOGIN_LIMIT_PER_ADDRESS", 120, 1..=1_000_000),
        refreshes: reader.number("REFRESH_LIMIT_PER_ADDRESS", 120, 1..=1_000_000),
    }
}

#[cfg(test)]
mod tests;
