//! The kinds of settings.

use std::{fmt, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::{IpNet, Ipv4Net};
use secrecy::SecretString;

use crate::domain::CipherSuite;

/// How callers are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMode {
    /// By the bearer token of a device.
    Device,
    /// By what the path says: for experiments on the own machine.
    Open,
}

/// Who may claim a user id that nobody has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegistrationMode {
    /// Whoever comes first.
    Open,
    /// Whom the host application admits by a token.
    Token,
}

/// How the host application signs its admission tokens: one algorithm, never the token's own choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdmissionAlgorithm {
    /// Ed25519 (RFC 8037).
    EdDsa,
    /// ECDSA on P-256 with SHA-256 (RFC 7518).
    Es256,
    /// RSA PKCS #1 v1.5 with SHA-256 (RFC 7518), 2048 bits or more.
    Rs256,
}

/// What the relay knows of the host application that admits users.
#[derive(Debug, Clone)]
pub struct AdmissionSettings {
    /// A public key in PEM, or the path of a file with one.
    pub key: Option<String>,
    /// A JWK set (RFC 7517): the path of a file, or a URL, which may hold a password.
    pub jwks: Option<SecretString>,
    /// The algorithm of its signatures.
    pub algorithm: AdmissionAlgorithm,
    /// What `aud` must name.
    pub audience: String,
}

/// The header in which trusted proxies name the address they were called from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// Who stands between clients and the relay.
#[derive(Debug, Clone)]
pub struct Proxies {
    /// Networks whose word about addresses is believed.
    pub trusted: Vec<IpNet>,
    /// Where they give it.
    pub header: ForwardedHeader,
}

/// Whether an address is in one of these networks. A network of IPv4 addresses that are written as IPv6 ones counts as what
/// it is; so must the address.
#[must_use]
pub fn is_within(address: IpAddr, networks: &[IpNet]) -> bool {
    networks.iter().any(|network| canonical(*network).contains(&address))
}

fn canonical(network: IpNet) -> IpNet {
    let IpNet::V6(mapped) = network else { return network };
    let inner = mapped.network().to_ipv4_mapped().zip(mapped.prefix_len().checked_sub(96));
    inner.and_then(|(address, length)| Ipv4Net::new(address, length).ok()).map_or(network, IpNet::V4)
}

/// How often one address may ask without a token, in a minute.
#[derive(Debug, Clone, Copy)]
pub struct AddressLimits {
    /// Registrations.
    pub registrations: u32,
    /// Challenges and answers to them.
    pub logins: u32,
    /// Refreshes.
    pub refreshes: u32,
}

/// How often a device may do what, in a minute, and how many sockets may be open.
#[derive(Debug, Clone, Copy)]
pub struct RateLimits {
    /// Sends and deletions.
    pub messages: u32,
    /// Acks, marks, signs of life.
    pub acks: u32,
    /// Whatever only looks.
    pub reads: u32,
    /// Fetches of other devices' keys.
    pub keys: u32,
    /// Making and changing groups.
    pub groups: u32,
    /// Bringing members into groups.
    pub joins: u32,
    /// Changes of devices, their keys and sessions.
    pub account: u32,
    /// Openings of sockets.
    pub openings: u32,
    /// As how many devices an address network counts.
    pub devices_per_address: u32,
    /// Open sockets of an address network.
    pub connections_per_address: u32,
    /// Open sockets of a user.
    pub connections_per_user: u32,
    /// Refusals in a minute past which a network is blocked; 0 for never.
    pub block_after: u32,
}

/// How often a user's keys are handed out with one-time keys, in an hour.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// To one caller.
    pub pair: u32,
    /// To all callers; half of it is kept for those the user has written to.
    pub target: u32,
    /// To all callers whose user ids are younger than a day.
    pub newcomers: u32,
}

/// What MLS material the relay takes.
#[derive(Debug, Clone)]
pub struct MlsSettings {
    /// The cipher suites of key packages and groups.
    pub cipher_suites: Vec<CipherSuite>,
    /// The longest lifetime of a key package.
    pub key_package_life: Duration,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// Where traces go.
#[derive(Debug, Clone)]
pub struct TraceSettings {
    /// The address of a collector that speaks OTLP over HTTP; none where nothing is traced.
    pub endpoint: Option<SecretString>,
    /// What the collector is told that this is.
    pub service: String,
}

/// Limits that clients meet, all shown by `GET /api/v1/limits`. Sizes in bytes.
#[derive(Debug, Clone, Copy)]
pub struct ClientLimits {
    /// A request body where nothing else is said.
    pub body: usize,
    /// A body of the key routes.
    pub keys_body: usize,
    /// A body of the send route, and a socket message.
    pub message_body: usize,
    /// One sealed body.
    pub envelope: usize,
    /// All sealed bodies of one send.
    pub send: usize,
    /// A body of the group routes that bring members, commits or state.
    pub group_body: usize,
    /// Unacked mailbox items in flight to one socket.
    pub in_flight: usize,
}

/// What holds for groups beside the store's limits.
#[derive(Debug, Clone, Copy)]
pub struct GroupLimits {
    /// How long a join token lives when its maker does not say.
    pub invite_life: Duration,
    /// MLS commits, proposals and foundings that are checked at one time.
    pub concurrency: usize,
}

/// Times of sockets.
#[derive(Debug, Clone, Copy)]
pub struct SocketTimes {
    /// Between pings.
    pub heartbeat: Duration,
    /// Silence after which a socket is closed.
    pub silence: Duration,
    /// How long a peer may refuse to read.
    pub stall: Duration,
}

/// Where the relay's certificate and its key are, in PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The certificate, then what leads from it to a root.
    pub certificate: PathBuf,
    /// The private key of the first certificate.
    pub key: PathBuf,
}

/// When browsers are told to come by TLS alone (RFC 6797).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StrictTransport {
    /// When the relay itself speaks TLS.
    Auto,
    /// Always: a proxy in front speaks it.
    On,
    /// Never.
    Off,
}

/// How connections are secured and bounded.
#[derive(Debug, Clone)]
pub struct Transport {
    /// With which certificate; none means in the clear.
    pub tls: Option<TlsFiles>,
    /// When browsers are told to come by TLS alone.
    pub strict: StrictTransport,
    /// Connections of the process.
    pub max_connections: usize,
    /// Of these the connections of one address network; 0 for as many as there may be.
    pub max_connections_per_address: usize,
    /// TLS handshakes of the process that are under way.
    pub max_handshakes: usize,
    /// How long a handshake may take.
    pub handshake: Duration,
    /// How long the head of a request may take.
    pub head: Duration,
    /// How long its body may take.
    pub body: Duration,
    /// How long a connection is kept without a request.
    pub idle: Duration,
    /// At how many bytes a second a peer takes an answer at the least.
    pub least_pace: u32,
    /// Bytes of large answers that wait in the process for their peers to take them.
    pub max_unread: usize,
}

impl Transport {
    /// Whether answers tell browsers to come by TLS alone.
    #[must_use]
    pub const fn is_strict(&self) -> bool {
        match self.strict {
            StrictTransport::Auto => self.tls.is_some(),
            StrictTransport::On => true,
            StrictTransport::Off => false,
        }
    }
}

/// The master secret, from which per-purpose keys are derived (HKDF-SHA-256).
#[derive(Clone)]
pub struct MasterSecret(pub [u8; 32]);

impl fmt::Debug for MasterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterSecret(..)")
    }
}
