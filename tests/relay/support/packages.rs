//! Key packages: a real client's (mls-rs), and such as no client would make, put together by hand.

use std::time::Duration;

use ed25519_dalek::{Signer as _, SigningKey};
use mls_rs::{
    CipherSuiteProvider, Client, CryptoProvider, ExtensionList,
    client_builder::MlsConfig,
    crypto::SignatureSecretKey,
    extension::recommended::LastResortKeyPackageExt,
    identity::{
        SigningIdentity,
        basic::{BasicCredential, BasicIdentityProvider},
    },
    mls_rules::{CommitOptions, DefaultMlsRules},
    time::MlsTime,
};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use restante::domain::Timestamp;
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};

use super::{
    crypto::x25519,
    mothers::{self, DAY},
};

/// A signature key of a suite, in the hands of a real client.
pub(crate) struct MlsKey {
    pub(crate) suite: u16,
    secret: SignatureSecretKey,
    pub(crate) public: Vec<u8>,
}

impl MlsKey {
    pub(crate) fn fresh(suite: u16) -> Self {
        let provider = RustCryptoProvider::default().cipher_suite_provider(suite.into()).unwrap();
        let (secret, public) = provider.signature_key_generate().unwrap();
        Self { suite, secret, public: public.as_bytes().to_vec() }
    }

    /// The number of the suite's signature scheme.
    pub(crate) fn scheme(&self) -> u16 {
        if self.suite == 2 { 0x0403 } else { 0x0807 }
    }

    /// Signs from now on with the key of another suite of the same scheme.
    pub(crate) fn take_over(&mut self, other: &Self) {
        assert_eq!(self.scheme(), other.scheme());
        (self.secret, self.public) = (other.secret.clone(), other.public.clone());
    }

    /// A client of this identity whose packages live so long.
    pub(crate) fn client(&self, identity: &str, life: Duration) -> Client<impl MlsConfig + use<>> {
        let credential = BasicCredential::new(identity.as_bytes().to_vec()).into_credential();
        let signing = SigningIdentity::new(credential, self.public.clone().into());
        Client::builder()
            .identity_provider(BasicIdentityProvider::new())
            .crypto_provider(RustCryptoProvider::default())
            .mls_rules(
                DefaultMlsRules::new()
                    .with_commit_options(CommitOptions::new().with_allow_external_commit(true)),
            )
            .key_package_lifetime(life)
            .extension_type(10.into())
            .signing_identity(signing, self.secret.clone(), self.suite.into())
            .build()
    }

    /// A one-time package for 30 days.
    pub(crate) fn package(&self, identity: &str, from: Timestamp) -> Vec<u8> {
        self.package_for(identity, from, 30 * DAY)
    }

    pub(crate) fn package_for(&self, identity: &str, from: Timestamp, life: Duration) -> Vec<u8> {
        self.made(identity, from, life, ExtensionList::default())
    }

    /// A last-resort package for 30 days.
    pub(crate) fn last_resort(&self, identity: &str, from: Timestamp) -> Vec<u8> {
        let mut extensions = ExtensionList::default();
        extensions.set_from(LastResortKeyPackageExt).unwrap();
        self.made(identity, from, 30 * DAY, extensions)
    }

    fn made(&self, identity: &str, from: Timestamp, life: Duration, extensions: ExtensionList) -> Vec<u8> {
        // A moment ago: the very second it begins in does not count as begun.
        let from = MlsTime::from(from.seconds().unsigned_abs() - 60);
        let client = self.client(identity, life + Duration::from_mins(1));
        let message = client.generate_key_package_message(extensions, ExtensionList::default(), Some(from));
        message.unwrap().to_bytes().unwrap()
    }
}

/// Who signs what is made by hand.
pub(crate) enum HandKey {
    Ed25519(Box<SigningKey>),
    P256(Box<EcdsaKeyPair>),
}

impl HandKey {
    pub(crate) fn ed25519() -> Self {
        Self::Ed25519(Box::new(SigningKey::from_bytes(&mothers::bytes())))
    }

    pub(crate) fn p256() -> Self {
        let (algorithm, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
        let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::P256(Box::new(EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()))
    }

    pub(crate) fn public(&self) -> Vec<u8> {
        match self {
            Self::Ed25519(key) => key.verifying_key().to_bytes().to_vec(),
            Self::P256(key) => key.public_key().as_ref().to_vec(),
        }
    }

    /// `SignWithLabel` (RFC 9420 §5.1.2).
    fn sign(&self, label: &str, content: &[u8]) -> Vec<u8> {
        let message = [vector(format!("MLS 1.0 {label}").as_bytes()), vector(content)].concat();
        match self {
            Self::Ed25519(key) => key.sign(&message).to_bytes().to_vec(),
            Self::P256(key) => key.sign(&SystemRandom::new(), &message).unwrap().as_ref().to_vec(),
        }
    }
}

/// Every part of a package (RFC 9420 §7.2, §10). [`Hand::sealed`] signs them as they stand.
#[derive(Clone)]
pub(crate) struct Hand {
    pub(crate) message_version: u16,
    pub(crate) wire_format: u16,
    pub(crate) version: u16,
    pub(crate) suite: u16,
    pub(crate) init_key: Vec<u8>,
    pub(crate) encryption_key: Vec<u8>,
    pub(crate) signature_key: Vec<u8>,
    pub(crate) credential_type: u16,
    pub(crate) identity: Vec<u8>,
    pub(crate) versions: Vec<u16>,
    pub(crate) suites: Vec<u16>,
    pub(crate) extension_types: Vec<u16>,
    pub(crate) credentials: Vec<u16>,
    /// 1: `key_package`, with the lifetime; 3: `commit`, with an empty parent hash.
    pub(crate) source: u8,
    pub(crate) not_before: u64,
    pub(crate) not_after: u64,
    pub(crate) leaf_extensions: Vec<(u16, Vec<u8>)>,
    pub(crate) extensions: Vec<(u16, Vec<u8>)>,
}

impl Hand {
    /// A package that has nothing to object to, for 30 days; of suite 1 or 2, after the key.
    pub(crate) fn good(key: &HandKey, identity: &str, from: Timestamp) -> Self {
        let is_p256 = matches!(key, HandKey::P256(_));
        let fresh = || if is_p256 { HandKey::p256().public() } else { x25519() };
        let suite = if is_p256 { 2 } else { 1 };
        let begin = from.seconds().unsigned_abs();
        Self {
            message_version: 1,
            wire_format: 5,
            version: 1,
            suite,
            init_key: fresh(),
            encryption_key: fresh(),
            signature_key: key.public(),
            credential_type: 1,
            identity: identity.as_bytes().to_vec(),
            versions: vec![1],
            suites: vec![suite],
            extension_types: vec![10],
            credentials: vec![1],
            source: 1,
            not_before: begin,
            not_after: begin + 30 * 86_400,
            leaf_extensions: Vec::new(),
            extensions: Vec::new(),
        }
    }

    /// The `MLSMessage`, leaf and package signed by `key`.
    pub(crate) fn sealed(&self, key: &HandKey) -> Vec<u8> {
        let mut leaf = self.leaf();
        let leaf_signature = key.sign("LeafNodeTBS", &leaf);
        leaf.extend(vector(&leaf_signature));
        let package = [
            self.version.to_be_bytes().to_vec(),
            self.suite.to_be_bytes().to_vec(),
            vector(&self.init_key),
            leaf,
            extensions(&self.extensions),
        ]
        .concat();
        let signature = key.sign("KeyPackageTBS", &package);
        let head = [self.message_version.to_be_bytes(), self.wire_format.to_be_bytes()].concat();
        [head, package, vector(&signature)].concat()
    }

    fn leaf(&self) -> Vec<u8> {
        let source = match self.source {
            1 => [self.not_before.to_be_bytes(), self.not_after.to_be_bytes()].concat(),
            _ => vec![0],
        };
        [
            vector(&self.encryption_key),
            vector(&self.signature_key),
            self.credential_type.to_be_bytes().to_vec(),
            vector(&self.identity),
            numbers(&self.versions),
            numbers(&self.suites),
            numbers(&self.extension_types),
            numbers(&[]),
            numbers(&self.credentials),
            vec![self.source],
            source,
            extensions(&self.leaf_extensions),
        ]
        .concat()
    }
}

/// A vector with its length before it (RFC 9420 §2.1.2).
pub(crate) fn vector(bytes: &[u8]) -> Vec<u8> {
    let length = match u16::try_from(bytes.len()).unwrap() {
        short @ 0..=63 => vec![u8::try_from(short).unwrap()],
        middle @ 64..=16_383 => (0x4000 | middle).to_be_bytes().to_vec(),
        long => (0x8000_0000 | u32::from(long)).to_be_bytes().to_vec(),
    };
    [&length[..], bytes].concat()
}

fn numbers(numbers: &[u16]) -> Vec<u8> {
    vector(&numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>())
}

fn extensions(extensions: &[(u16, Vec<u8>)]) -> Vec<u8> {
    let each = |(kind, data): &(u16, Vec<u8>)| [&kind.to_be_bytes()[..], &vector(data)].concat();
    vector(&extensions.iter().flat_map(each).collect::<Vec<_>>())
}
