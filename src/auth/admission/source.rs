//! Where the keys of the host application come from: the settings, a file, or a URL.

use std::{
    fs::File,
    io::{self, Read},
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use ureq::{
    Agent, Proxy,
    http::{Response, Uri, header::LOCATION, uri::Scheme},
};

use super::key::{KeySet, PublicKey};
use crate::config::AdmissionAlgorithm;

/// The longest key file or answer that is read.
const LONGEST: u64 = 1 << 20;

/// How long reading from a URL may take, redirects included.
const PATIENCE: Duration = Duration::from_secs(10);

/// Redirects that are followed.
const REDIRECTS: u32 = 3;

/// Why keys could not be read. Never names the place, which may hold a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the file cannot be read: {0}")]
    File(io::ErrorKind),
    #[error("there is no public key in PEM in it that fits ADMISSION_ALGORITHM")]
    NotPem,
    #[error("it is no JWK set")]
    NotJwks,
    #[error("it has more than 1 MiB")]
    TooLong,
    #[error("the server answered {0}")]
    Status(u16),
    #[error("the server redirects too often, or to where it must not")]
    Redirected,
    #[error("it took longer than 10 s")]
    TimedOut,
    #[error("the connection failed: {0}")]
    Connection(io::ErrorKind),
    #[error("the server's name or certificate is not right")]
    Unproven,
    #[error("the request failed")]
    Failed,
}

/// A place with keys.
pub(super) enum Source {
    Pem(String),
    PemFile(PathBuf),
    JwksFile(PathBuf),
    JwksUrl(Box<Agent>, Uri),
}

impl Source {
    /// A public key in PEM, or the path of a file with one.
    pub(super) fn of_key(setting: &str) -> Self {
        if setting.contains("-----BEGIN") {
            // An environment file keeps a text in one line.
            Self::Pem(setting.replace("\\n", "\n"))
        } else {
            Self::PemFile(setting.into())
        }
    }

    /// A JWK set: the path of a file, or a URL.
    ///
    /// # Errors
    /// For a URL that must not be used.
    pub(super) fn of_jwks(setting: &str) -> Result<Self, &'static str> {
        if !setting.contains("://") {
            return Ok(Self::JwksFile(setting.into()));
        }
        let url: Uri = setting.parse().map_err(|_| "not a URL")?;
        if !allowed(&url) {
            return Err("a URL must be https, or http on this machine");
        }
        Ok(Self::JwksUrl(Box::new(agent(&url)), url))
    }

    /// Whether it takes the network to read it.
    pub(super) const fn is_remote(&self) -> bool {
        matches!(self, Self::JwksUrl(..))
    }

    /// Whether there may be other keys in it later.
    pub(super) const fn can_change(&self) -> bool {
        !matches!(self, Self::Pem(_))
    }

    /// The keys that are there now and fit the algorithm. Blocks.
    pub(super) fn read(&self, algorithm: AdmissionAlgorithm) -> Result<KeySet, ReadError> {
        let from_pem =
            |text: &str| PublicKey::from_pem(text, algorithm).map(KeySet::of).ok_or(ReadError::NotPem);
        let from_jwks = |json: &[u8]| KeySet::from_jwks(json, algorithm).ok_or(ReadError::NotJwks);
        match self {
            Self::Pem(text) => from_pem(text),
            Self::PemFile(path) => from_pem(&String::from_utf8_lossy(&read_file(path)?)),
            Self::JwksFile(path) => from_jwks(&read_file(path)?),
            Self::JwksUrl(agent, url) => from_jwks(&fetch(agent, url)?),
        }
    }
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    let opened = File::open(path).and_then(|file| file.take(LONGEST + 1).read_to_end(&mut bytes));
    match opened {
        Err(error) => Err(ReadError::File(error.kind())),
        Ok(read) if read as u64 > LONGEST => Err(ReadError::TooLong),
        Ok(_) => Ok(bytes),
    }
}

/// Whether keys may be asked for there: over TLS, or without leaving the machine.
fn allowed(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default();
    if url.scheme() == Some(&Scheme::HTTPS) {
        return !host.is_empty();
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_loopback = address.map_or(host.eq_ignore_ascii_case("localhost"), |address| address.is_loopback());
    url.scheme() == Some(&Scheme::HTTP) && is_loopback
}

fn agent(url: &Uri) -> Agent {
    let over_tls = url.scheme() == Some(&Scheme::HTTPS);
    let config = Agent::config_builder()
        .https_only(over_tls)
        // Redirects are followed here, where each can be looked at.
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(if over_tls { Proxy::try_from_env() } else { None })
        .user_agent("restante")
        .accept("application/jwk-set+json, application/json");
    config.build().into()
}

fn fetch(agent: &Agent, url: &Uri) -> Result<Vec<u8>, ReadError> {
    let begun = Instant::now();
    let mut url = url.clone();
    for _ in 0..=REDIRECTS {
        let left = PATIENCE.checked_sub(begun.elapsed()).ok_or(ReadError::TimedOut)?;
        let request = agent.get(url.clone()).config().timeout_global(Some(left)).build();
        let mut response = request.call().map_err(|error| reason(&error))?;
        if !response.status().is_redirection() {
            let body = response.body_mut().with_config().limit(LONGEST);
            return body.read_to_vec().map_err(|error| reason(&error));
        }
        url = redirected(&url, &response).ok_or(ReadError::Redirected)?;
    }
    Err(ReadError::Redirected)
}

/// Where a redirect leads, if keys may be asked for there: by the same scheme, and named in full or on the same server.
fn redirected<B>(from: &Uri, response: &Response<B>) -> Option<Uri> {
    let location: Uri = response.headers().get(LOCATION)?.to_str().ok()?.parse().ok()?;
    let to = if location.authority().is_some() {
        location
    } else {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = location.into_parts().path_and_query;
        Uri::from_parts(parts).ok()?
    };
    (to.scheme() == from.scheme() && allowed(&to)).then_some(to)
}

/// What went wrong, in our own words: the library's may quote the URL.
fn reason(error: &ureq::Error) -> ReadError {
    match error {
        ureq::Error::StatusCode(status) => ReadError::Status(*status),
        ureq::Error::Timeout(_) => ReadError::TimedOut,
        ureq::Error::BodyExceedsLimit(_) => ReadError::TooLong,
        ureq::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut => ReadError::TimedOut,
        ureq::Error::Io(error) => ReadError::Connection(error.kind()),
        ureq::Error::HostNotFound | ureq::Error::Tls(_) | ureq::Error::Rustls(_) => ReadError::Unproven,
        _ => ReadError::Failed,
    }
}
