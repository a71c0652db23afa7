//! Public keys of the host application, from PEM (RFC 7468) or a JWK set (RFC 7517), and what they verify.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ed25519_dalek::VerifyingKey;
use jsonwebtoken::DecodingKey;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::Value;

use super::algorithm_name;
use crate::config::AdmissionAlgorithm;

/// What comes before the 32 bytes of an Ed25519 key in its `SubjectPublicKeyInfo` (RFC 8410).
pub(in super::super) const ED25519_INFO: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// What comes before the 65 bytes of an uncompressed P-256 point in its `SubjectPublicKeyInfo` (RFC 5480).
const P256_INFO: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The bytes of an RSA modulus: 2048 to 8192 bits.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// A key that can verify one algorithm's signatures and no other's.
#[derive(Clone)]
pub(super) enum PublicKey {
    Ed25519([u8; 32]),
    /// Uncompressed, with its leading 4.
    P256([u8; 65]),
    /// An `RSAPublicKey` in DER (RFC 8017).
    RsaDer(Vec<u8>),
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
}

impl PublicKey {
    /// The key in a PEM text, if it is a public one for this algorithm.
    pub(super) fn from_pem(text: &str, algorithm: AdmissionAlgorithm) -> Option<Self> {
        let text = text.trim();
        match algorithm {
            AdmissionAlgorithm::EdDsa => ed25519(info(text)?.strip_prefix(&ED25519_INFO[..])?),
            AdmissionAlgorithm::Es256 => p256(info(text)?.strip_prefix(&P256_INFO[..])?),
            AdmissionAlgorithm::Rs256 => {
                let public = ["-----BEGIN PUBLIC KEY-----", "-----BEGIN RSA PUBLIC KEY-----"];
                public.iter().find(|label| text.starts_with(**label))?;
                let key = DecodingKey::from_rsa_pem(text.as_bytes()).ok()?;
                let der = key.try_get_as_bytes().ok()?;
                (der.len() > *MODULUS.start()).then(|| Self::RsaDer(der.to_vec()))
            }
        }
    }

    /// Whether this key signed these bytes.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
            Self::P256(key) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature)
            }
            Self::RsaDer(key) => {
                UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, key).verify(message, signature)
            }
            Self::Rsa(key) => key.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature),
        };
        verified.is_ok()
    }
}

/// Keys and what tokens call them.
pub(super) struct KeySet {
    keys: Vec<(Option<String>, PublicKey)>,
    /// Whether tokens choose among the keys by name.
    named: bool,
}

impl KeySet {
    /// One key that verifies whatever name a token gives it.
    pub(super) fn of(key: PublicKey) -> Self {
        Self { keys: vec![(None, key)], named: false }
    }

    /// The keys of a JWK set that this algorithm can use; those that say anything against it are left out. None for
    /// what is no JWK set.
    pub(super) fn from_jwks(json: &[u8], algorithm: AdmissionAlgorithm) -> Option<Self> {
        #[derive(Deserialize)]
        struct Jwks {
            keys: Vec<Value>,
        }
        let set: Jwks = serde_json::from_slice(json).ok()?;
        let mut keys = Vec::new();
        for value in set.keys {
            // What cannot be read is of a kind that is not ours, and not a fault (RFC 7517, section 5).
            let Ok(jwk) = Jwk::deserialize(value) else { continue };
            if let Some(key) = jwk.key(algorithm) {
                keys.push((jwk.kid, key));
            }
        }
        Some(Self { keys, named: true })
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The key of this name; without a name the only key there is.
    pub(super) fn find(&self, id: Option<&str>) -> Option<&PublicKey> {
        let found = match (id, &self.keys[..]) {
            (Some(id), keys) if self.named => keys.iter().find(|(name, _)| name.as_deref() == Some(id)),
            (_, [only]) => Some(only),
            (_, _) => None,
        };
        found.map(|(_, key)| key)
    }
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
    d: Option<String>,
}

impl Jwk {
    fn key(&self, algorithm: AdmissionAlgorithm) -> Option<PublicKey> {
        let contradicts = self.alg.as_deref().is_some_and(|alg| alg != algorithm_name(algorithm))
            || self.r#use.as_deref().is_some_and(|purpose| purpose != "sig")
            || self.key_ops.as_ref().is_some_and(|acts| !acts.iter().any(|act| act == "verify"));
        // A private key that everybody can read proves nothing.
        if contradicts || self.d.is_some() {
            return None;
        }
        match (algorithm, &*self.kty, self.crv.as_deref()) {
            (AdmissionAlgorithm::EdDsa, "OKP", Some("Ed25519")) => ed25519(&bytes(self.x.as_ref())?),
            (AdmissionAlgorithm::Es256, "EC", Some("P-256")) => {
                let (x, y) = (bytes(self.x.as_ref())?, bytes(self.y.as_ref())?);
                if x.len() == 32 && y.len() == 32 { p256(&[&[4][..], &x, &y].concat()) } else { None }
            }
            (AdmissionAlgorithm::Rs256, "RSA", None) => {
                rsa(&bytes(self.n.as_ref())?, &bytes(self.e.as_ref())?)
            }
            _ => None,
        }
    }
}

fn bytes(text: Option<&String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}

/// The DER in a PEM text that is one `PUBLIC KEY`.
fn info(pem: &str) -> Option<Vec<u8>> {
    let body = pem.strip_prefix("-----BEGIN PUBLIC KEY-----")?.strip_suffix("-----END PUBLIC KEY-----")?;
    STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

fn ed25519(key: &[u8]) -> Option<PublicKey> {
    let key = <[u8; 32]>::try_from(key).ok()?;
    // Under a weak key anybody can sign.
    let fits = VerifyingKey::from_bytes(&key).is_ok_and(|key| !key.is_weak());
    fits.then_some(PublicKey::Ed25519(key))
}

fn p256(point: &[u8]) -> Option<PublicKey> {
    let point = <[u8; 65]>::try_from(point).ok()?;
    (point[0] == 4).then_some(PublicKey::P256(point))
}

fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<PublicKey> {
    // Some write a zero before a number whose top bit is set, as DER does.
    let [n, e] = [modulus, exponent].map(|number| {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        number[zeros..].to_vec()
    });
    let fits = MODULUS.contains(&n.len()) && (1..=4).contains(&e.len());
    fits.then_some(PublicKey::Rsa(RsaPublicKeyComponents { n, e }))
}
