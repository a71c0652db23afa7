//! What openmls needs from outside, by the primitives of mls-rs: their own provider for openmls cannot be locked together
//! with Signal's library.

use mls_rs::{CipherSuite, CipherSuiteProvider, CryptoProvider};
use mls_rs_core::crypto::{
    HpkeCiphertext as SealedByMlsRs, HpkeContextR, HpkeContextS, HpkePublicKey, HpkeSecretKey,
    SignaturePublicKey, SignatureSecretKey,
};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use openmls_memory_storage::MemoryStorage;
use openmls_traits::{
    OpenMlsProvider,
    crypto::OpenMlsCrypto,
    random::OpenMlsRand,
    types::{
        AeadType, Ciphersuite, CryptoError, ExporterSecret, HashType, HpkeAeadType, HpkeCiphertext,
        HpkeConfig, HpkeKemType, HpkeKeyPair, KemOutput, SignatureScheme,
    },
};
use rand::RngCore;
use tls_codec::SecretVLBytes;

/// One client's storage and primitives.
#[derive(Default)]
pub(crate) struct Provider {
    storage: MemoryStorage,
    primitives: Primitives,
}

#[derive(Default)]
pub(crate) struct Primitives;

impl OpenMlsProvider for Provider {
    type CryptoProvider = Primitives;
    type RandProvider = Primitives;
    type StorageProvider = MemoryStorage;

    fn storage(&self) -> &MemoryStorage {
        &self.storage
    }

    fn crypto(&self) -> &Primitives {
        &self.primitives
    }

    fn rand(&self) -> &Primitives {
        &self.primitives
    }
}

impl OpenMlsRand for Primitives {
    type Error = CryptoError;

    fn random_array<const N: usize>(&self) -> Result<[u8; N], CryptoError> {
        let mut bytes = [0; N];
        rand::rng().fill_bytes(&mut bytes);
        Ok(bytes)
    }

    fn random_vec(&self, len: usize) -> Result<Vec<u8>, CryptoError> {
        let mut bytes = vec![0; len];
        rand::rng().fill_bytes(&mut bytes);
        Ok(bytes)
    }
}

type Suite = <RustCryptoProvider as CryptoProvider>::CipherSuiteProvider;

fn suite(number: u16) -> Suite {
    RustCryptoProvider::new().cipher_suite_provider(CipherSuite::new(number)).unwrap()
}

/// Everything hashes with SHA-256.
fn hashing(hash: HashType) -> Result<Suite, CryptoError> {
    match hash {
        HashType::Sha2_256 => Ok(suite(1)),
        HashType::Sha2_384 | HashType::Sha2_512 => Err(CryptoError::UnsupportedHashAlgorithm),
    }
}

fn sealing(aead: AeadType) -> Result<Suite, CryptoError> {
    match aead {
        AeadType::Aes128Gcm => Ok(suite(1)),
        AeadType::ChaCha20Poly1305 => Ok(suite(3)),
        AeadType::Aes256Gcm => Err(CryptoError::UnsupportedAeadAlgorithm),
    }
}

fn signing(scheme: SignatureScheme) -> Result<Suite, CryptoError> {
    match scheme {
        SignatureScheme::ED25519 => Ok(suite(1)),
        SignatureScheme::ECDSA_SECP256R1_SHA256 => Ok(suite(2)),
        _ => Err(CryptoError::UnsupportedSignatureScheme),
    }
}

fn hpke(config: &HpkeConfig) -> Suite {
    suite(match (&config.0, &config.2) {
        (HpkeKemType::DhKemP256, _) => 2,
        (_, HpkeAeadType::ChaCha20Poly1305) => 3,
        _ => 1,
    })
}

/// The public half, which HPKE binds and openmls does not hand over.
fn public_half(config: &HpkeConfig, secret: &[u8]) -> HpkePublicKey {
    if config.0 == HpkeKemType::DhKemP256 {
        let secret = p256::SecretKey::from_slice(secret).unwrap();
        return secret.public_key().to_sec1_bytes().to_vec().into();
    }
    let scalar = secret.try_into().unwrap();
    curve25519_dalek::MontgomeryPoint::mul_base_clamped(scalar).to_bytes().to_vec().into()
}

impl OpenMlsCrypto for Primitives {
    fn supports(&self, ciphersuite: Ciphersuite) -> Result<(), CryptoError> {
        let known = super::SUITES.contains(&u16::from(ciphersuite));
        known.then_some(()).ok_or(CryptoError::UnsupportedCiphersuite)
    }

    fn supported_ciphersuites(&self) -> Vec<Ciphersuite> {
        super::SUITES.iter().map(|number| Ciphersuite::try_from(*number).unwrap()).collect()
    }

    fn hkdf_extract(&self, hash: HashType, salt: &[u8], ikm: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        Ok(hashing(hash)?.kdf_extract(salt, ikm).unwrap().to_vec().into())
    }

    fn hmac(&self, hash: HashType, key: &[u8], message: &[u8]) -> Result<SecretVLBytes, CryptoError> {
        Ok(hashing(hash)?.mac(key, message).unwrap().into())
    }

    fn hkdf_expand(
        &self,
        hash: HashType,
        prk: &[u8],
        info: &[u8],
        length: usize,
    ) -> Result<SecretVLBytes, CryptoError> {
        Ok(hashing(hash)?.kdf_expand(prk, info, length).unwrap().to_vec().into())
    }

    fn hash(&self, hash: HashType, data: &[u8]) -> Result<Vec<u8>, CryptoError> {
        Ok(hashing(hash)?.hash(data).unwrap())
    }

    fn aead_encrypt(
        &self,
        aead: AeadType,
        key: &[u8],
        data: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        sealing(aead)?.aead_seal(key, data, Some(aad), nonce).map_err(|_| CryptoError::CryptoLibraryError)
    }

    fn aead_decrypt(
        &self,
        aead: AeadType,
        key: &[u8],
        sealed: &[u8],
        nonce: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let opened = sealing(aead)?.aead_open(key, sealed, Some(aad), nonce);
        opened.map(|plain| plain.to_vec()).map_err(|_| CryptoError::AeadDecryptionError)
    }

    fn signature_key_gen(&self, scheme: SignatureScheme) -> Result<(Vec<u8>, Vec<u8>), CryptoError> {
        let (secret, public) = signing(scheme)?.signature_key_generate().unwrap();
        Ok((secret.to_vec(), public.to_vec()))
    }

    fn verify_signature(
        &self,
        scheme: SignatureScheme,
        data: &[u8],
        key: &[u8],
        signature: &[u8],
    ) -> Result<(), CryptoError> {
        let key = SignaturePublicKey::from(key.to_vec());
        signing(scheme)?.verify(&key, signature, data).map_err(|_| CryptoError::InvalidSignature)
    }

    fn sign(&self, scheme: SignatureScheme, data: &[u8], key: &[u8]) -> Result<Vec<u8>, CryptoError> {
        Ok(signing(scheme)?.sign(&SignatureSecretKey::from(key.to_vec()), data).unwrap())
    }

    fn hpke_seal(
        &self,
        config: HpkeConfig,
        public: &[u8],
        info: &[u8],
        aad: &[u8],
        plain: &[u8],
    ) -> Result<HpkeCiphertext, CryptoError> {
        let sealed = hpke(&config)
            .hpke_seal(&public.to_vec().into(), info, Some(aad), plain)
            .map_err(|_| CryptoError::HpkeEncryptionError)?;
        Ok(HpkeCiphertext { kem_output: sealed.kem_output.into(), ciphertext: sealed.ciphertext.into() })
    }

    fn hpke_open(
        &self,
        config: HpkeConfig,
        sealed: &HpkeCiphertext,
        secret: &[u8],
        info: &[u8],
        aad: &[u8],
    ) -> Result<Vec<u8>, CryptoError> {
        let (suite, public) = (hpke(&config), public_half(&config, secret));
        let sealed = SealedByMlsRs {
            kem_output: sealed.kem_output.as_slice().to_vec(),
            ciphertext: sealed.ciphertext.as_slice().to_vec(),
        };
        let opened =
            suite.hpke_open(&sealed, &HpkeSecretKey::from(secret.to_vec()), &public, info, Some(aad));
        opened.map(|plain| plain.to_vec()).map_err(|_| CryptoError::HpkeDecryptionError)
    }

    fn hpke_setup_sender_and_export(
        &self,
        config: HpkeConfig,
        public: &[u8],
        info: &[u8],
        context: &[u8],
        length: usize,
    ) -> Result<(KemOutput, ExporterSecret), CryptoError> {
        let (output, sender) = hpke(&config)
            .hpke_setup_s(&public.to_vec().into(), info)
            .map_err(|_| CryptoError::SenderSetupError)?;
        let secret = sender.export(context, length).map_err(|_| CryptoError::ExporterError)?;
        Ok((output, secret.to_vec().into()))
    }

    fn hpke_setup_receiver_and_export(
        &self,
        config: HpkeConfig,
        output: &[u8],
        secret: &[u8],
        info: &[u8],
        context: &[u8],
        length: usize,
    ) -> Result<ExporterSecret, CryptoError> {
        let (suite, public) = (hpke(&config), public_half(&config, secret));
        let receiver = suite
            .hpke_setup_r(output, &HpkeSecretKey::from(secret.to_vec()), &public, info)
            .map_err(|_| CryptoError::ReceiverSetupError)?;
        let secret = receiver.export(context, length).map_err(|_| CryptoError::ExporterError)?;
        Ok(secret.to_vec().into())
    }

    fn derive_hpke_keypair(&self, config: HpkeConfig, ikm: &[u8]) -> Result<HpkeKeyPair, CryptoError> {
        let (secret, public) = hpke(&config).kem_derive(ikm).map_err(|_| CryptoError::CryptoLibraryError)?;
        Ok(HpkeKeyPair { private: secret.to_vec().into(), public: public.to_vec() })
    }
}
