//! What the settings name and no setting holds: loaded before anything is opened, so that all faults are told at once.

use std::{fs, io, sync::Arc};

use secrecy::{ExposeSecret, SecretString};

use crate::{
    auth::{Admissions, SigningKeys},
    config::{Config, Faults, Reading},
    hot::redis::RedisHot,
    net::Certificate,
    store::postgres::PostgresStore,
    telemetry,
};

/// Settings with which a relay can start, and what they name.
pub struct Outfit {
    pub(super) config: Config,
    /// What connections are secured with, if they are.
    pub(super) certificate: Option<Arc<Certificate>>,
    /// What signs access tokens, where the settings say so.
    pub(super) signing: Option<SigningKeys>,
    /// Who admits users, if anybody does.
    pub(super) admissions: Option<Arc<Admissions>>,
}

impl Outfit {
    /// The settings.
    #[must_use]
    pub const fn config(&self) -> &Config {
        &self.config
    }

    /// Loads what the settings name: keys and certificate from their files, and reads the addresses of the engines and of the
    /// collector of traces, where nothing is asked.
    ///
    /// # Errors
    /// All faults at once, those of the settings and those of what they name, by the settings' names and without a word of a
    /// value that may be secret.
    pub fn load(mut reading: Reading) -> Result<Self, Faults> {
        reading.load(&["DATABASE_URL"], of_postgres);
        reading.load(&["REDIS_URL"], of_redis);
        reading.load(&["OTEL_EXPORTER_OTLP_ENDPOINT"], |config| {
            telemetry::check(&config.traces).map_err(|fault| vec![fault])
        });
        let certificate = reading.load(&["TLS_CERT_PATH", "TLS_KEY_PATH"], |config| {
            let loaded = config.transport.tls.clone().map(Certificate::load).transpose();
            loaded.map_err(|faults| faults.iter().map(ToString::to_string).collect())
        });
        let signing = reading.load(&["TOKEN_SIGNING_KEY"], |config| {
            let loaded = config.token_signing_key.as_ref().map(signing_keys).transpose();
            loaded.map_err(|why| vec![format!("TOKEN_SIGNING_KEY: {why}")])
        });
        let admission = ["ADMISSION_KEY", "ADMISSION_JWKS", "ADMISSION_ALGORITHM"];
        let admissions = reading.load(&admission, |config| {
            let loaded = Admissions::new(&config.admission);
            loaded.map_err(|fault| vec![fault.to_string()])
        });
        let config = reading.done()?.config;
        Ok(Self {
            config,
            certificate: certificate.flatten(),
            signing: signing.flatten(),
            admissions: admissions.flatten().map(Arc::new),
        })
    }
}

fn of_postgres(config: &Config) -> Result<(), Vec<String>> {
    let fault = "DATABASE_URL cannot be read: it must be postgres://user:password@host:port/database, signs such as / and # \
                 in the password written as %2F and %23";
    let is_sound = config.database_url.as_ref().is_none_or(PostgresStore::is_address);
    if is_sound { Ok(()) } else { Err(vec![fault.into()]) }
}

fn of_redis(config: &Config) -> Result<(), Vec<String>> {
    let fault = "REDIS_URL cannot be read: it must be redis://user:password@host:port, signs such as / and # in the password \
                 written as %2F and %23";
    let is_sound = config.redis_url.as_ref().is_none_or(RedisHot::is_address);
    if is_sound { Ok(()) } else { Err(vec![fault.into()]) }
}

/// The keys of the setting: its value, or what the file holds that it names.
fn signing_keys(setting: &SecretString) -> Result<SigningKeys, String> {
    let value = setting.expose_secret();
    let unparsed = match SigningKeys::parse(value) {
        Ok(keys) => return Ok(keys),
        Err(error) => error,
    };
    // The value may be a mistyped secret: it is not told.
    let unread = |error: io::Error| {
        format!("neither keys ({unparsed}) nor the path of a file that can be read ({})", error.kind())
    };
    let text = fs::read_to_string(value).map_err(unread)?;
    SigningKeys::parse(&text).map_err(|error| error.to_string())
}
