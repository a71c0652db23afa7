//! Certificates made for one test, and clients that trust them and nothing else.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// How long an answer is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const BOTH: &[&SupportedProtocolVersion] = &[&TLS12, &TLS13];

/// Both protocols that the relay speaks over TLS, and the one that every client knows.
pub(crate) const ANY: &[&str] = &["h2", "http/1.1"];
pub(crate) const HTTP1: &[&str] = &["http/1.1"];
pub(crate) const HTTP2: &[&str] = &["h2"];

/// A certificate and its key, in files.
pub(crate) struct Credentials {
    folder: TempDir,
}

/// The two files' texts, and the certificate as clients are told to trust it.
pub(crate) struct Fresh {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) root: CertificateDer<'static>,
}

/// A certificate for this machine that nobody has seen.
pub(crate) fn fresh() -> Fresh {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    Fresh {
        certificate: pem("CERTIFICATE", made.cert.der()),
        key: pem("PRIVATE KEY", &made.signing_key.serialize_der()),
        root: made.cert.der().clone(),
    }
}

fn pem(kind: &str, der: &[u8]) -> String {
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
}

impl Credentials {
    /// Files with a fresh certificate, and the certificate.
    pub(crate) fn fresh() -> (Self, CertificateDer<'static>) {
        let files = Self { folder: tempfile::tempdir().unwrap() };
        let root = files.renew();
        (files, root)
    }

    /// Puts a fresh certificate into the files.
    pub(crate) fn renew(&self) -> CertificateDer<'static> {
        let fresh = fresh();
        self.write(&fresh.certificate, &fresh.key);
        fresh.root
    }

    pub(crate) fn write(&self, certificate: &str, key: &str) {
        std::fs::write(self.certificate(), certificate).unwrap();
        std::fs::write(self.key(), key).unwrap();
    }

    pub(crate) fn certificate(&self) -> PathBuf {
        self.folder.path().join("relay.crt")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("relay.key")
    }

    /// The settings that name the files.
    pub(crate) fn settings(&self) -> [(&'static str, String); 2] {
        [
            ("TLS_CERT_PATH", self.certificate().display().to_string()),
            ("TLS_KEY_PATH", self.key().display().to_string()),
        ]
    }
}

/// A connection to the relay, if it shows this certificate and speaks one of these.
pub(crate) async fn connect(
    address: SocketAddr,
    root: &CertificateDer<'static>,
    protocols: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::from(address.ip()), stream).await
}

/// Says this, and hears what comes until the other side ends the connection.
pub(crate) async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    said: impl AsRef<[u8]>,
) -> String {
    stream.write_all(said.as_ref()).await.unwrap();
    heard(stream).await
}

/// What comes until the other side ends the connection.
pub(crate) async fn heard(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    // An end without a goodbye is an end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("the relay ends the connection");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// [`exchange`] over a fresh connection in the clear.
pub(crate) async fn exchanged(address: SocketAddr, said: impl AsRef<[u8]>) -> String {
    exchange(&mut TcpStream::connect(address).await.unwrap(), said).await
}
