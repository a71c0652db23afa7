//! The relay's certificate: read, held against its key, and changed while the relay runs.

use std::{
    fs,
    future::Future,
    os::unix::fs::MetadataExt,
    path::Path,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use x509_cert::der::Decode;

use crate::{config::TlsFiles, metrics};

/// How often the files are looked at for a change.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The protocols that are offered, the dearest first (RFC 7301). Sockets need the second.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What is wrong with the certificate or its key: the setting, and why. Tells nothing of what the files hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting}: {why}")]
pub struct TlsFault {
    setting: &'static str,
    why: String,
}

fn certificate_fault(why: impl Into<String>) -> TlsFault {
    TlsFault { setting: "TLS_CERT_PATH", why: why.into() }
}

fn key_fault(why: impl Into<String>) -> TlsFault {
    TlsFault { setting: "TLS_KEY_PATH", why: why.into() }
}

/// A certificate with its chain and key, fit to be shown.
struct Shown {
    key: Arc<CertifiedKey>,
    expires_at: Duration,
}

/// The certificate that is shown to whoever connects. A new one takes the place of the old for all later connections.
pub struct Certificate {
    files: TlsFiles,
    provider: Arc<CryptoProvider>,
    shown: RwLock<Arc<CertifiedKey>>,
    /// The files as they were before they were read at the start.
    first: Stamps,
}

impl Certificate {
    /// Reads certificate and key.
    ///
    /// # Errors
    /// When a file cannot be read, holds nothing or the wrong thing, or the two do not belong together: what is wrong with
    /// each file.
    pub fn load(files: TlsFiles) -> Result<Arc<Self>, Vec<TlsFault>> {
        let provider = Arc::new(ring::default_provider());
        let first = stamps(&files);
        let shown = read(&files, &provider)?;
        metrics::certificate_expires(shown.expires_at);
        Ok(Arc::new(Self { files, provider, shown: RwLock::new(shown.key), first }))
    }

    /// How connections are secured: TLS 1.3 and 1.2 with this certificate, then HTTP/2 or HTTP/1.1.
    ///
    /// # Errors
    /// When the cryptography knows neither version.
    pub fn server_config(self: &Arc<Self>) -> Result<ServerConfig, TlsFault> {
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| certificate_fault(error.to_string()))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        Ok(config)
    }

    /// Reads the files again when they change and on SIGHUP. What is wrong with new ones is logged and counted, and the
    /// old certificate stays. SIGHUP is heard from the moment this returns.
    pub fn follow(self: Arc<Self>, stop: CancellationToken) -> impl Future<Output = ()> {
        let mut hangup = signal(SignalKind::hangup()).ok();
        if hangup.is_none() {
            tracing::warn!(
                "SIGHUP cannot be heard; the certificate is read again only when its files change"
            );
        }
        let mut seen = self.first;
        async move {
            let mut looks = interval(LOOK_EVERY);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                let asked = async {
                    match &mut hangup {
                        Some(hangup) => hangup.recv().await,
                        None => std::future::pending().await,
                    }
                };
                let is_asked = tokio::select! {
                    () = stop.cancelled() => return,
                    _ = asked => true,
                    _ = looks.tick() => false,
                };
                // Looked at before the files are read, so that no later change is missed.
                let stamps = stamps(&self.files);
                if is_asked || stamps != seen {
                    self.reload();
                }
                seen = stamps;
            }
        }
    }

    fn reload(&self) {
        match read(&self.files, &self.provider) {
            Ok(shown) => {
                metrics::certificate_expires(shown.expires_at);
                *self.shown.write().unwrap_or_else(PoisonError::into_inner) = shown.key;
                metrics::tls_reloaded("ok");
                tracing::info!("the certificate was read again");
            }
            Err(faults) => {
                metrics::tls_reloaded("failed");
                for fault in faults {
                    tracing::warn!(%fault, "the new certificate cannot be used; the old one stays");
                }
            }
        }
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificate(..)")
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.shown.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// What tells a file from its successor: its number, its length, when it was written.
type Stamp = (u64, u64, i64, i64);

type Stamps = [Option<Stamp>; 2];

fn stamps(files: &TlsFiles) -> Stamps {
    [stamp(&files.certificate), stamp(&files.key)]
}

fn stamp(path: &Path) -> Option<Stamp> {
    let file = fs::metadata(path).ok()?;
    Some((file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

fn read(files: &TlsFiles, provider: &CryptoProvider) -> Result<Shown, Vec<TlsFault>> {
    let (chain, expires_at, key) = match (chain_in(&files.certificate), key_in(&files.key)) {
        (Ok((chain, expires_at)), Ok(key)) => (chain, expires_at, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let key = CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            key_fault("the key does not belong to the first certificate of TLS_CERT_PATH")
        }
        rustls::Error::InvalidCertificate(_) => {
            certificate_fault("the first certificate cannot be used for TLS")
        }
        _ => key_fault("the key is of a kind that cannot be used: RSA, ECDSA on P-256 or P-384, Ed25519 can"),
    });
    let key = key.map_err(|fault| vec![fault])?;
    Ok(Shown { key: Arc::new(key), expires_at })
}

/// A certificate with what leads from it to a root, and when it ends.
fn chain_in(path: &Path) -> Result<(Vec<CertificateDer<'static>>, Duration), TlsFault> {
    let text = fs::read(path)
        .map_err(|error| certificate_fault(format!("the file cannot be read ({})", error.kind())))?;
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|_| certificate_fault("the file is not PEM"))?;
    let first = chain.first().ok_or_else(|| certificate_fault("the file holds no certificate in PEM"))?;
    let expires_at = expires_at(first)?;
    Ok((chain, expires_at))
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, TlsFault> {
    let text =
        fs::read(path).map_err(|error| key_fault(format!("the file cannot be read ({})", error.kind())))?;
    PrivateKeyDer::from_pem_slice(&text)
        .map_err(|_| key_fault("the file holds no private key in PEM without a password"))
}

/// When a certificate ends, since the epoch of Unix.
fn expires_at(certificate: &CertificateDer<'_>) -> Result<Duration, TlsFault> {
    let parsed = x509_cert::Certificate::from_der(certificate)
        .map_err(|_| certificate_fault("the first entry is not an X.509 certificate"))?;
    Ok(parsed.tbs_certificate.validity.not_after.to_unix_duration())
}
