//! What the relay can do of MLS's cryptography: hash, derive and verify. It has no code that opens, seals or signs.
//!
//! Both rooms of pure MLS rules stand on it: key packages and groups.

use ed25519_dalek::VerifyingKey;
use openmls_traits::{
    crypto::OpenMlsCrypto,
    types::{
        AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeCiphertext, HpkeConfig,
        HpkeKeyPair, KemOutput, SignatureScheme,
    },
};
use ring::{digest, hkdf, hmac, signature};
use tls_codec::SecretVLBytes;

use crate::domain::CipherSuite;

/// openmls's provider.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Verifier;

/// The library's name of a suite.
pub(crate) const fn suite(suite: CipherSuite) -> Ciphersuite {
    match suite {
        CipherSuite::X25519Aes128 => Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519,
        CipherSuite::P256Aes128 => Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256,
        CipherSuite::X25519ChaCha20 => Ciphersuite::MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519,
    }
}

const SUITES: [CipherSuite; 3] =
    [CipherSuite::X25519Aes128, CipherSuite::P256Aes128, CipherSuite::X25519ChaCha20];

const fn only_sha256(hash_type: HashType) -> Result<(), CryptoError> {
    match hash_type {
        HashType::Sha2_256 => Ok(()),
        HashType::Sha2_384 | HashType::Sha2_512 => Err(CryptoError::UnsupportedHashAlgorithm),
    }
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// Strict: ring takes a key of small order, under which one signature fits every message; clients differ about it. What
/// the strict rule accepts, every client's accepts.
fn verify_ed25519(key: &[u8], data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
    let key = key.try_into().map_err(|_| CryptoError::InvalidPublicKey)?;
    let key = VerifyingKey::from_bytes(key).map_err(|_| CryptoError::InvalidPublicKey)?;
    let signature =
        ed25519_dalek::Signature::from_slice(signature).map_err(|_| CryptoError::InvalidSignature)?;
    key.verify_strict(data, &signature).map_err(|_| CryptoError::InvalidSignature)
}

fn verify_p256(key: &[u8], data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
    let key = signature::UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_ASN1, key);
    key.verify(data, signature).map_err(|_| CryptoError::InvalidSignature)
}

impl OpenMlsCrypto for Verifier {
    fn supports(&self, ciphersuite: Ciphersuite) -> Result<(), CryptoError> {
        let found = SUITES.into_iter().any(|known| suite(known) == ciphersuite);
        if found { Ok(()) } else { Err(CryptoError::UnsupportedCiphersuite) }
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        SUITES.map(suite).to_vec()
    }

    fn hkdf_extract(
        &self,
        hash_type: HashType,
        salt: &[u8],
        ikm: &[u8],
    ) -> Result<SecretVLBytes, CryptoError> {
        self.hmac(hash_type, salt, ikm)
    }

    fn hmac(&self, hash_type: HashType, key: &[u8], message: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        only_sha256(hash_type)?;
        Ok(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref().into())
    }

    fn hkdf_expand(
        &self,
        hash_type: HashType,
        prk: &[u8],
        info: &[u8],
        okm_len: usize,
    ) -> Result<SecretVLBytes, CryptoError> {
        only_sha256(hash_type)?;
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, prk);
        let info = [info];
        let derived = prk.expand(&info, Length(okm_len)).map_err(|_| CryptoError::HkdfOutputLengthInvalid)?;
        let mut okm = vec![0; okm_len];
        derived.fill(&mut okm).map_err(|_| CryptoError::HkdfOutputLengthInvalid)?;
        Ok(okm.into())
    }

    fn hash(&self, hash_type: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        only_sha256(hash_type)?;
        Ok(digest::digest(&digest::SHA256, data).as_ref().to_vec())
    }

    fn verify_signature(
        &self,
        alg: SignatureScheme,
        data: &[u8],
        pk: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        // A fuzzer plays members with bad intent, who can sign whatever they like; crate::fuzzed keeps this out of relays.
        if cfg!(fuzzing) {
            return Ok(());
        }
        match alg {
            SignatureScheme::ED25519 => verify_ed25519(pk, data, signature),
            SignatureScheme::ECDSA_SECP256R1_SHA256 => verify_p256(pk, data, signature),
            SignatureScheme::ECDSA_SECP384R1_SHA384
            | SignatureScheme::ECDSA_SECP521R1_SHA512
            | SignatureScheme::ED448 => Err(CryptoError::UnsupportedSignatureScheme),
        }
    }

    fn aead_encrypt(
        &self,
        _: AeadType,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(CryptoError::UnsupportedAeadAlgorithm)
    }

    fn aead_decrypt(
        &self,
        _: AeadType,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(CryptoError::UnsupportedAeadAlgorithm)
    }

    fn signature_key_gen(&self, _: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        Err(CryptoError::UnsupportedSignatureScheme)
    }

    fn sign(&self, _: SignatureScheme, _: &[u8], _: &[u8]) -> Result<Vec<u8>, CryptoError> {
        Err(CryptoError::UnsupportedSignatureScheme)
    }

    fn hpke_seal(
        &self,
        _: HpkeConfig,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        Err(CryptoError::UnsupportedCiphersuite)
    }

    fn hpke_open(
        &self,
        _: HpkeConfig,
        _: &HpkeCiphertext,
        _: &[u8],
        _: &[u8],
        _: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        Err(CryptoError::UnsupportedCiphersuite)
    }

    fn hpke_setup_sender_and_export(
        &self,
        _: HpkeConfig,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        Err(CryptoError::UnsupportedCiphersuite)
    }

    fn hpke_setup_receiver_and_export(
        &self,
        _: HpkeConfig,
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: &[u8],
        _: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        Err(CryptoError::UnsupportedCiphersuite)
    }

    fn derive_hpke_keypair(&self, _: HpkeConfig, _: &[u8]) -> Result<HpkeKeyPair, CryptoError> {
        Err(CryptoError::UnsupportedCiphersuite)
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer, SigningKey};

    use super::*;

    fn verify(key: &[u8], message: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        Verifier.verify_signature(SignatureScheme::ED25519, message, key, signature)
    }

    #[test]
    fn a_key_of_small_order_verifies_nothing_though_ring_would_let_it() {
        // The neutral element as key, the base point as R and 1 as s: sB = R + hA for every h, so for every message.
        let mut key = [0; 32];
        key[0] = 1;
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED.as_bytes());
        signature[32] = 1;
        let lenient = signature::UnparsedPublicKey::new(&signature::ED25519, key);
        for message in [&b"one"[..], b"another"] {
            assert!(lenient.verify(message, &signature).is_ok(), "ring has changed its rule");
            assert_eq!(verify(&key, message, &signature), Err(CryptoError::InvalidSignature));
        }
    }

    #[test]
    fn a_genuine_signature_verifies_for_its_message_and_key_alone() {
        let (signer, other) = (SigningKey::from_bytes(&[7; 32]), SigningKey::from_bytes(&[8; 32]));
        let signature = signer.sign(b"message").to_bytes();
        let key = signer.verifying_key();
        assert_eq!(verify(key.as_bytes(), b"message", &signature), Ok(()));
        assert!(verify(key.as_bytes(), b"massage", &signature).is_err());
        assert!(verify(other.verifying_key().as_bytes(), b"message", &signature).is_err());
        assert!(verify(&key.as_bytes()[1..], b"message", &signature).is_err());
        assert!(verify(key.as_bytes(), b"message", &signature[1..]).is_err());
    }

    #[test]
    fn hkdf_is_that_of_rfc_5869() {
        // Test case 1 of its appendix A.
        let prk = Verifier
            .hkdf_extract(HashType::Sha2_256, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], &[0x0b; 22])
            .unwrap();
        assert_eq!(prk.as_slice()[..4], [0x07, 0x77, 0x09, 0x36]);
        let info: Vec<u8> = (0xf0..=0xf9).collect();
        let okm = Verifier.hkdf_expand(HashType::Sha2_256, prk.as_slice(), &info, 42).unwrap();
        assert_eq!(okm.as_slice()[..4], [0x3c, 0xb2, 0x5f, 0x25]);
        assert_eq!(okm.as_slice()[40..], [0x58, 0x65]);
        assert!(Verifier.hkdf_expand(HashType::Sha2_256, prk.as_slice(), &info, 255 * 32 + 1).is_err());
    }

    #[test]
    fn it_opens_seals_and_signs_nothing() {
        let config = || suite(CipherSuite::X25519Aes128).hpke_config();
        assert!(Verifier.aead_decrypt(AeadType::Aes128Gcm, &[0; 16], &[0; 32], &[0; 12], &[]).is_err());
        assert!(Verifier.aead_encrypt(AeadType::Aes128Gcm, &[0; 16], &[0; 32], &[0; 12], &[]).is_err());
        assert!(Verifier.hpke_seal(config(), &[0; 32], &[], &[], &[]).is_err());
        assert!(Verifier.derive_hpke_keypair(config(), &[0; 32]).is_err());
        assert!(Verifier.signature_key_gen(SignatureScheme::ED25519).is_err());
        assert!(Verifier.sign(SignatureScheme::ED25519, &[], &[0; 32]).is_err());
        assert_eq!(Verifier.supported_ciphersuites().len(), 3);
    }
}
