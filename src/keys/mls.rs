//! MLS signature keys and key packages: parsed and verified (RFC 9420 §5, §7.3, §10.1).
//!
//! Pure: bytes and the time in, a verdict out. What only the store knows (whether a key is registered, a package was used)
//! is asked when it is stored.

use std::time::Duration;

use bytes::Bytes;
use openmls::prelude::{
    BasicCredential, Credential, CredentialType, Extension, KeyPackage as MlsKeyPackage, KeyPackageIn,
    KeyPackageVerifyError, MlsMessageBodyIn, MlsMessageIn, ProtocolVersion,
};
use p256::PublicKey;
use tls_codec::{Deserialize as _, Serialize as _, VLBytes};

use super::signal::{self, InvalidKey};
use crate::{
    domain::{
        CipherSuite, DeviceId, KeyPackage, KeyPackageRef, SignatureScheme, Timestamp, UserId, leaf_identity,
    },
    verify::Verifier,
};

/// The longest package that is taken: one with a basic credential has some 300 bytes.
const LONGEST: usize = 4096;

/// By how much a client's clock may be wrong at either end of a lifetime.
const SKEW: Duration = Duration::from_hours(1);

/// The type byte of an uncompressed point (SEC 1 §2.3.3).
const UNCOMPRESSED: u8 = 0x04;

/// The extensions up to this one are every client's, and are not listed (RFC 9420 §7.2).
const LAST_DEFAULT_EXTENSION: u16 = 5;

/// `MLSMessage.version`, `MLSMessage.wire_format` of a key package, and `KeyPackage.version`.
const MLS10: [u8; 2] = [0, 1];
const KEY_PACKAGE: [u8; 2] = [0, 5];

/// What key packages are held against.
#[derive(Debug, Clone)]
pub struct PackageRules {
    /// The suites that are taken.
    pub cipher_suites: Vec<CipherSuite>,
    /// The longest lifetime of a leaf; an hour at either end is forgiven.
    pub max_lifetime: Duration,
}

impl PackageRules {
    /// Whether the relay takes this suite.
    #[must_use]
    pub fn takes(&self, suite: CipherSuite) -> bool {
        self.cipher_suites.contains(&suite)
    }
}

/// How often a package may be handed out. Its extensions must say the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackageUse {
    /// Once.
    OneTime,
    /// Whenever there is no other one (the extension `last_resort_key_package`).
    LastResort,
}

/// Why bytes are not a key package that a device may upload. The words are meant for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPackage {
    /// The package is longer than any that is taken.
    #[error("a key package has at most 4096 bytes")]
    TooLarge,
    /// The bytes are not one `MLSMessage` with a key package, or have another form than RFC 9420 gives them.
    #[error("it is not exactly one MLSMessage that holds a KeyPackage")]
    Malformed,
    /// The package is for another version of MLS.
    #[error("its protocol version is not mls10")]
    Version,
    /// The suite is not on the relay's list.
    #[error("the relay does not take its cipher suite")]
    CipherSuite,
    /// The credential is not the one that the uploading device must have.
    #[error("its credential is not basic with the identity <user_id>:<device_id> of this device")]
    Credential,
    /// The signature key cannot be one of the suite's scheme.
    #[error("its signature key is not one of its cipher suite")]
    SignatureKey,
    /// The leaf's or the package's signature does not verify.
    #[error("a signature in it does not verify")]
    Signature,
    /// The init key or the encryption key cannot be one of the suite, or they are the same.
    #[error("its init key or encryption key is not one of its cipher suite, or they are the same")]
    EncryptionKeys,
    /// The leaf is not one for a key package, or an extension stands where it may not.
    #[error("its leaf is not one of a key package, or an extension stands where it must not")]
    Leaf,
    /// The capabilities do not name what the package itself uses.
    #[error("its capabilities lack its version, cipher suite, credential type or one of its extensions")]
    Capabilities,
    /// The lifetime has ended or not begun.
    #[error("its lifetime has ended or has not begun")]
    NotNow,
    /// The lifetime is longer than the relay takes.
    #[error("its lifetime is longer than the relay takes")]
    LivesTooLong,
    /// It is a last-resort package, and came among the one-time ones.
    #[error("it is a last-resort package, and belongs into last_resort")]
    IsLastResort,
    /// It lacks the last-resort extension, and came as the last-resort one.
    #[error("it lacks the extension last_resort_key_package")]
    NotLastResort,
}

impl InvalidPackage {
    /// A stable word for the reason.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooLarge => "too-large",
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::CipherSuite => "cipher-suite",
            Self::Credential => "credential",
            Self::SignatureKey => "signature-key",
            Self::Signature => "signature",
            Self::EncryptionKeys => "encryption-keys",
            Self::Leaf => "leaf",
            Self::Capabilities => "capabilities",
            Self::NotNow => "not-now",
            Self::LivesTooLong => "lives-too-long",
            Self::IsLastResort => "is-last-resort",
            Self::NotLastResort => "not-last-resort",
        }
    }
}

/// Checks that bytes are the public key of this scheme.
///
/// # Errors
/// Why they are not.
pub fn check_signature_key(scheme: SignatureScheme, key: &[u8]) -> Result<(), InvalidKey> {
    match scheme {
        SignatureScheme::Ed25519 => {
            let key = key.try_into().map_err(|_| InvalidKey::WrongLength { expected: "32" })?;
            signal::check_edwards(&key)
        }
        SignatureScheme::EcdsaP256 => check_p256(key),
    }
}

/// Checks one key package that a device uploads, at `now`.
///
/// openmls holds the lifetime against the machine's clock as well; `now` is what our own rules go by.
///
/// # Errors
/// The first rule it breaks.
pub fn check_package(
    rules: &PackageRules,
    owner: (UserId, &DeviceId),
    use_: PackageUse,
    body: Bytes,
    now: Timestamp,
) -> Result<KeyPackage, InvalidPackage> {
    let cipher_suite = read_head(rules, &body)?;
    let package = parse(&body)?;
    let leaf = package.unverified_credential();
    if !is_credential_of(leaf.credential, owner) {
        return Err(InvalidPackage::Credential);
    }
    let signature_key = Bytes::copy_from_slice(leaf.signature_key.as_slice());
    check_signature_key(cipher_suite.signature_scheme(), &signature_key)
        .map_err(|_| InvalidPackage::SignatureKey)?;
    let package = package.validate(&Verifier, ProtocolVersion::Mls10).map_err(|why| refused(&why))?;
    check_encryption_keys(cipher_suite, &package)?;
    check_capabilities(&package)?;
    let not_after = check_lifetime(rules, &package, now)?;
    match (use_, package.last_resort()) {
        (PackageUse::OneTime, false) | (PackageUse::LastResort, true) => {}
        (PackageUse::OneTime, true) => return Err(InvalidPackage::IsLastResort),
        (PackageUse::LastResort, false) => return Err(InvalidPackage::NotLastResort),
    }
    let reference = package.hash_ref(&Verifier).map_err(|_| InvalidPackage::Malformed)?;
    let reference = reference.as_slice().try_into().map_err(|_| InvalidPackage::CipherSuite)?;
    Ok(KeyPackage {
        reference: KeyPackageRef(reference),
        cipher_suite,
        signature_key,
        init_key_digest: *blake3::hash(package.hpke_init_key().as_slice()).as_bytes(),
        not_after,
        body,
    })
}

/// The suite, from the fixed places at the beginning: openmls tells of an unknown one and of garbage alike.
fn read_head(rules: &PackageRules, body: &[u8]) -> Result<CipherSuite, InvalidPackage> {
    if body.len() > LONGEST {
        return Err(InvalidPackage::TooLarge);
    }
    let word = |at: usize| body.get(at..at + 2);
    let (Some(version), Some(format), Some(own_version), Some(suite)) = (word(0), word(2), word(4), word(6))
    else {
        return Err(InvalidPackage::Malformed);
    };
    if version != MLS10 {
        return Err(InvalidPackage::Version);
    }
    if format != KEY_PACKAGE {
        return Err(InvalidPackage::Malformed);
    }
    if own_version != MLS10 {
        return Err(InvalidPackage::Version);
    }
    let number = suite.iter().fold(0, |number, byte| number << 8 | i64::from(*byte));
    CipherSuite::new(number).ok().filter(|suite| rules.takes(*suite)).ok_or(InvalidPackage::CipherSuite)
}

/// Exact, and in the one form that RFC 9420 allows: the reference is computed over it, and others compute it over these
/// very bytes.
fn parse(body: &[u8]) -> Result<KeyPackageIn, InvalidPackage> {
    let message = MlsMessageIn::tls_deserialize_exact(body).map_err(|_| InvalidPackage::Malformed)?;
    if message.tls_serialize_detached().ok().as_deref() != Some(body) {
        return Err(InvalidPackage::Malformed);
    }
    match message.extract() {
        MlsMessageBodyIn::KeyPackage(package) => Ok(package),
        MlsMessageBodyIn::PublicMessage(_)
        | MlsMessageBodyIn::PrivateMessage(_)
        | MlsMessageBodyIn::Welcome(_)
        | MlsMessageBodyIn::GroupInfo(_) => Err(InvalidPackage::Malformed),
    }
}

fn is_credential_of(credential: Credential, (user, device): (UserId, &DeviceId)) -> bool {
    let identity = leaf_identity(user, device);
    BasicCredential::try_from(credential).is_ok_and(|credential| credential.identity() == identity.as_bytes())
}

fn refused(error: &KeyPackageVerifyError) -> InvalidPackage {
    match error {
        KeyPackageVerifyError::LifetimeError(_) => InvalidPackage::NotNow,
        KeyPackageVerifyError::UnsupportedExtension => InvalidPackage::Capabilities,
        KeyPackageVerifyError::InvalidSignature | KeyPackageVerifyError::InvalidLeafNodeSignature => {
            InvalidPackage::Signature
        }
        KeyPackageVerifyError::InitKeyEqualsEncryptionKey => InvalidPackage::EncryptionKeys,
        KeyPackageVerifyError::InvalidProtocolVersion => InvalidPackage::Version,
        KeyPackageVerifyError::MissingLifetime
        | KeyPackageVerifyError::InvalidLeafNodeSourceType
        | KeyPackageVerifyError::ExtensionTypeNotValidInKeyPackage(_) => InvalidPackage::Leaf,
        KeyPackageVerifyError::LibraryError(_) => InvalidPackage::Malformed,
    }
}

/// Nobody could encrypt to another key, and so the package would be used up for nothing.
fn check_encryption_keys(suite: CipherSuite, package: &MlsKeyPackage) -> Result<(), InvalidPackage> {
    // openmls shows this key in its wire form only.
    let encryption_key = package.leaf_node().encryption_key().tls_serialize_detached();
    let encryption_key = encryption_key.and_then(VLBytes::tls_deserialize_exact);
    let encryption_key = encryption_key.map_err(|_| InvalidPackage::EncryptionKeys)?;
    for key in [package.hpke_init_key().as_slice(), encryption_key.as_slice()] {
        let checked = match suite {
            CipherSuite::X25519Aes128 | CipherSuite::X25519ChaCha20 => signal::check_x25519(key),
            CipherSuite::P256Aes128 => check_p256(key),
        };
        checked.map_err(|_| InvalidPackage::EncryptionKeys)?;
    }
    Ok(())
}

/// RFC 9420 §7.2: the lists hold what the leaf itself uses. openmls looks at the extensions only.
fn check_capabilities(package: &MlsKeyPackage) -> Result<(), InvalidPackage> {
    let leaf = package.leaf_node();
    let capabilities = leaf.capabilities();
    let extensions = leaf.extensions().iter().map(Extension::extension_type);
    let names_all = capabilities.versions().contains(&ProtocolVersion::Mls10)
        && capabilities.ciphersuites().contains(&package.ciphersuite().into())
        && capabilities.credentials().contains(&CredentialType::Basic)
        && extensions
            .filter(|kind| u16::from(*kind) > LAST_DEFAULT_EXTENSION)
            .all(|kind| capabilities.extensions().contains(&kind));
    if names_all { Ok(()) } else { Err(InvalidPackage::Capabilities) }
}

/// RFC 9420 §7.2 wants a maximum; openmls, as a receiver, has none.
fn check_lifetime(
    rules: &PackageRules,
    package: &MlsKeyPackage,
    now: Timestamp,
) -> Result<Timestamp, InvalidPackage> {
    let lifetime = package.life_time();
    let span = lifetime.not_after().saturating_sub(lifetime.not_before());
    if span > (rules.max_lifetime + 2 * SKEW).as_secs() {
        return Err(InvalidPackage::LivesTooLong);
    }
    let moment = |seconds: u64| i64::try_from(seconds).ok().and_then(|seconds| seconds.checked_mul(1000));
    let (Some(begin), Some(end)) = (moment(lifetime.not_before()), moment(lifetime.not_after())) else {
        return Err(InvalidPackage::NotNow);
    };
    if begin > now.millis() || end <= now.millis() {
        return Err(InvalidPackage::NotNow);
    }
    Ok(Timestamp::from_millis(end))
}

fn check_p256(key: &[u8]) -> Result<(), InvalidKey> {
    if key.len() != 65 {
        return Err(InvalidKey::WrongLength { expected: "65" });
    }
    if key[0] != UNCOMPRESSED {
        return Err(InvalidKey::WrongPrefix { expected: UNCOMPRESSED });
    }
    PublicKey::from_sec1_bytes(key).map(|_| ()).map_err(|_| InvalidKey::NotOnCurve)
}
