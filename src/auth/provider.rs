//! What `jsonwebtoken` may use: Ed25519 alone, over raw keys. Every other algorithm is unknown here, and so cannot be
//! smuggled in.

use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use jsonwebtoken::{
    Algorithm,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| match (algorithm, <&[u8; 32]>::try_from(key.as_bytes())) {
        (Algorithm::EdDSA, Ok(seed)) => Ok(Box::new(Ed25519Signer(SigningKey::from_bytes(seed)))),
        _ => Err(refused()),
    },
    verifier_factory: |algorithm, key| match (algorithm, <&[u8; 32]>::try_from(key.try_get_as_bytes()?)) {
        (Algorithm::EdDSA, Ok(public)) => {
            Ok(Box::new(Ed25519Verifier(VerifyingKey::from_bytes(public).map_err(|_| refused())?)))
        }
        _ => Err(refused()),
    },
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes it the provider of this process. Repeating it does no harm.
pub(super) fn install() {
    if PROVIDER.install_default().is_err() {
        tracing::trace!("another relay of this process installed the same provider");
    }
}

fn refused() -> Error {
    ErrorKind::InvalidAlgorithm.into()
}

struct Ed25519Signer(SigningKey);

impl signature::Signer<Vec<u8>> for Ed25519Signer {
    fn try_sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).to_bytes().to_vec())
    }
}

impl JwtSigner for Ed25519Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct Ed25519Verifier(VerifyingKey);

impl signature::Verifier<Vec<u8>> for Ed25519Verifier {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        let signature = Signature::from_slice(signature).map_err(|_| signature::Error::new())?;
        self.0.verify_strict(message, &signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Ed25519Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}
