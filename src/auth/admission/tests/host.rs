//! A host application: keys of each kind, and the tokens that it signs with them.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
        RsaKeyPair, RsaPublicKeyComponents,
    },
};
use serde_json::{Value, json};

use crate::{auth::admission::algorithm_name, config::AdmissionAlgorithm};

const RSA_PRIVATE: &str = include_str!("../../../../tests/data/admission-rsa.pem");
const RSA_PUBLIC: &str = include_str!("../../../../tests/data/admission-rsa.pub.pem");

pub(super) enum Host {
    EdDsa(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
    Rs256(Box<RsaKeyPair>),
}

impl Host {
    /// A host with a fresh key; for RSA, which takes long to make, always the same one.
    pub(super) fn new(algorithm: AdmissionAlgorithm) -> Self {
        let random = SystemRandom::new();
        match algorithm {
            AdmissionAlgorithm::EdDsa => {
                let pair = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
                Self::EdDsa(Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap())
            }
            AdmissionAlgorithm::Es256 => {
                let pair = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
                let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.as_ref(), &random);
                Self::Es256(pair.unwrap())
            }
            AdmissionAlgorithm::Rs256 => {
                let body: String = RSA_PRIVATE.lines().filter(|line| !line.starts_with('-')).collect();
                Self::Rs256(Box::new(RsaKeyPair::from_pkcs8(&STANDARD.decode(body).unwrap()).unwrap()))
            }
        }
    }

    /// A host with another key, where one can be made.
    pub(super) fn another(algorithm: AdmissionAlgorithm) -> Option<Self> {
        (algorithm != AdmissionAlgorithm::Rs256).then(|| Self::new(algorithm))
    }

    pub(super) fn algorithm(&self) -> AdmissionAlgorithm {
        match self {
            Self::EdDsa(_) => AdmissionAlgorithm::EdDsa,
            Self::Es256(_) => AdmissionAlgorithm::Es256,
            Self::Rs256(_) => AdmissionAlgorithm::Rs256,
        }
    }

    pub(super) fn pem(&self) -> String {
        let info = match self {
            Self::EdDsa(pair) => [&hex("302a300506032b6570032100")[..], pair.public_key().as_ref()].concat(),
            Self::Es256(pair) => {
                let head = hex("3059301306072a8648ce3d020106082a8648ce3d030107034200");
                [&head[..], pair.public_key().as_ref()].concat()
            }
            Self::Rs256(_) => return RSA_PUBLIC.to_owned(),
        };
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(info))
    }

    pub(super) fn jwk(&self, name: &str) -> Value {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::EdDsa(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": name, "x": text(pair.public_key().as_ref())})
            }
            Self::Es256(pair) => {
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "kid": name, "alg": "ES256",
                    "x": text(&point[1..33]), "y": text(&point[33..])})
            }
            Self::Rs256(pair) => {
                let key: RsaPublicKeyComponents<Vec<u8>> = pair.public_key().into();
                json!({"kty": "RSA", "kid": name, "alg": "RS256", "n": text(&key.n), "e": text(&key.e)})
            }
        }
    }

    pub(super) fn header(&self) -> Value {
        json!({"alg": algorithm_name(self.algorithm()), "typ": "JWT"})
    }

    /// A token without a key's name.
    pub(super) fn token(&self, claims: &Value) -> String {
        sign_parts(self, &encoded(&self.header()), &encoded(claims))
    }

    /// A token that names its key.
    pub(super) fn named(&self, name: &str, claims: &Value) -> String {
        let mut header = self.header();
        header["kid"] = json!(name);
        sign_parts(self, &encoded(&header), &encoded(claims))
    }

    /// The token with the other one of its two ECDSA signatures, s replaced by n − s.
    pub(super) fn malleated(token: &str) -> String {
        let (input, signature) = token.rsplit_once('.').unwrap();
        let mut signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let order = hex("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551");
        let mut borrow = 0;
        for at in (0..32).rev() {
            let difference = i16::from(order[at]) - i16::from(signature[32 + at]) - borrow;
            borrow = i16::from(difference < 0);
            signature[32 + at] = u8::try_from(difference.rem_euclid(256)).unwrap();
        }
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::EdDsa(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Es256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Self::Rs256(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
        }
    }
}

pub(super) fn encoded(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

pub(super) fn sign_parts(host: &Host, header: &str, payload: &str) -> String {
    let input = format!("{header}.{payload}");
    let signature = host.sign(input.as_bytes());
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
