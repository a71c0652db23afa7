//! The relay's secrets: configured, or made once in the data folder.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use hkdf::Hkdf;
use sha2::Sha256;
use uuid::Uuid;

use super::StartError;
use crate::{
    auth::SigningKeys,
    config::{Config, MasterSecret},
    store::sqlite::SqliteStore,
};

/// Where an embedded relay keeps its master secret, unless it is configured.
const MASTER_KEY: &str = "master.key";

/// What the relay must keep to itself.
pub(super) struct Secrets {
    pub(super) master: MasterSecret,
    /// What signs access tokens, and what still verifies them.
    pub(super) signing: SigningKeys,
}

impl Secrets {
    /// The master secret and the keys that sign, as configured. What is not comes, when embedded, from the data folder, where
    /// it is made once and only its owner may read it.
    pub(super) fn load(config: &Config, signing: Option<SigningKeys>) -> Result<Self, StartError> {
        let master = Self::master(config)?;
        let signing = match signing {
            Some(keys) => keys,
            None => kept_keys(&config.data_dir.join("token-signing.key"))?,
        };
        Ok(Self { master, signing })
    }

    /// The master secret alone, as [`Secrets::load`] has it.
    pub(super) fn master(config: &Config) -> Result<MasterSecret, StartError> {
        if config.database_url.is_none() {
            let folder = &config.data_dir;
            SqliteStore::make_folder(folder)
                .map_err(|error| StartError::Io(folder.display().to_string(), error))?;
        }
        match &config.master_secret {
            Some(secret) => Ok(secret.clone()),
            None => master_secret(&kept(&config.data_dir.join(MASTER_KEY))?),
        }
    }

    /// The configured master secret, or the one that is kept in the data folder: for whoever works beside a relay, and so
    /// makes none.
    pub(super) fn of_relay(config: &Config) -> Result<MasterSecret, StartError> {
        if let Some(secret) = &config.master_secret {
            return Ok(secret.clone());
        }
        let path = config.data_dir.join(MASTER_KEY);
        match fs::read_to_string(&path) {
            Ok(text) => master_secret(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(StartError::NoRelay("key", path.display().to_string()))
            }
            Err(error) => Err(StartError::Io(path.display().to_string(), error)),
        }
    }

    /// A key for one purpose, grown from the master secret (HKDF-SHA-256, RFC 5869).
    pub(super) fn key_for(&self, purpose: &[u8]) -> [u8; 32] {
        key_for(&self.master, purpose)
    }
}

/// A key for one purpose, grown from a master secret.
pub(super) fn key_for(master: &MasterSecret, purpose: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    let grown = Hkdf::<Sha256>::new(Some(b"restante-v1"), &master.0).expand(purpose, &mut key);
    debug_assert!(grown.is_ok(), "32 bytes are less than the most that HKDF gives");
    key
}

fn kept_keys(path: &Path) -> Result<SigningKeys, StartError> {
    SigningKeys::parse(&kept(path)?)
        .map_err(|error| StartError::Secret(path.display().to_string(), error.to_string()))
}

fn master_secret(text: &str) -> Result<MasterSecret, StartError> {
    let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok());
    let wrong = || StartError::Secret(MASTER_KEY.into(), "does not hold 32 bytes in base64".into());
    bytes.map(MasterSecret).ok_or_else(wrong)
}

/// The text of a secret file, which is made with 32 random bytes in base64 if there is none.
fn kept(path: &Path) -> Result<String, StartError> {
    let failed = |error| StartError::Io(path.display().to_string(), error);
    match make(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::read_to_string(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Written beside and then linked to its name, so that no other process ever reads half of it.
fn make(path: &Path) -> io::Result<String> {
    if path.exists() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    let text = STANDARD.encode(bytes);
    // Every container's first process has the same number: the name is random.
    let draft = path.with_extension(format!("{}.new", Uuid::new_v4().simple()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    let linked = fs::hard_link(&draft, path);
    fs::remove_file(&draft)?;
    linked?;
    if let Some(folder) = path.parent() {
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(text)
}
