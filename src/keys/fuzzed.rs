//! Registrations, keys and key packages for fuzzers; see [`crate::fuzzed`].

#![expect(clippy::missing_panics_doc, reason = "a target panics when a promise is broken")]

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;

use super::{
    LEAST_PREKEYS, RegistrationRules, UploadRequest,
    body::{
        CheckBody, LinkBody, PreKeysBody, RotateBody,
        packages::{MlsKeyBody, PackagesBody},
        register::RegisterBody,
    },
    check, checked_upload,
    mls::{self, PackageRules, PackageUse},
    register::{Checks, checked_registration},
    routes::{prekeys, register::registration, rotation},
    signal,
};
use crate::{
    domain::{CipherSuite, DeviceId, IdentityKey, OneTimePreKey, SessionId, SignedPreKey, UserId},
    fuzzed::{NOW, caller},
    http::fuzzed::{parsed, taken},
    store::{KeyUpload, NewSession, PackageUpload, Registration},
};

/// Keys of one kind that a device may have.
const MOST: u32 = 200;

fn package_rules() -> PackageRules {
    let cipher_suites = vec![CipherSuite::X25519Aes128, CipherSuite::P256Aes128, CipherSuite::X25519ChaCha20];
    // Seeds do not end.
    PackageRules { cipher_suites, max_lifetime: Duration::from_hours(24 * 366 * 200) }
}

/// A registration, from JSON to what the store would get.
pub fn register_body(data: &[u8]) -> bool {
    let session =
        NewSession { session_id: SessionId::new(uuid::Uuid::nil()), refresh_hash: [0; 32], expires_at: NOW };
    let rules = RegistrationRules {
        relay_name: "localhost".to_owned(),
        // A fuzzer cannot sign; a proof that comes is checked.
        proof_required: false,
        admission_required: false,
    };
    let checks = Checks { rules, packages: package_rules(), most: MOST, now: NOW };
    let Some(body) = parsed::<RegisterBody>(data) else { return false };
    let user = caller(1, "phone").user_id.uuid().hyphenated().to_string();
    let Some(request) = taken(registration(&user, body, session)) else { return false };
    let Some(registration) = taken(checked_registration(&checks, request)) else { return false };
    check_registration(&registration);
    true
}

fn check_registration(registration: &Registration) {
    let Registration { identity_key, onetime_prekeys, kem_prekeys, .. } = registration;
    assert!((LEAST_PREKEYS..=MOST as usize).contains(&onetime_prekeys.len()));
    assert!(kem_prekeys.len() <= MOST as usize);
    assert!(
        matches!(identity_key, IdentityKey::Ed25519(_)) || registration.last_resort_kem_prekey.is_some(),
        "libsignal opens no session without a KEM key"
    );
    check_signed(identity_key, &registration.signed_prekey);
    check_lists(identity_key, onetime_prekeys, kem_prekeys);
    check_packages(&registration.packages);
}

fn check_signed(identity: &IdentityKey, key: &SignedPreKey) {
    assert!(signal::verify(identity, &key.public_key, &key.signature));
}

fn check_lists(identity: &IdentityKey, onetime: &[OneTimePreKey], kem: &[SignedPreKey]) {
    let ids: HashSet<_> = onetime.iter().map(|key| key.id.get()).collect();
    let keys: HashSet<_> = onetime.iter().map(|key| &key.public_key).collect();
    assert!(ids.len() == onetime.len() && keys.len() == onetime.len(), "none of them twice");
    let ids: HashSet<_> = kem.iter().map(|key| key.id.get()).collect();
    assert_eq!(ids.len(), kem.len(), "nor of these");
    for key in kem {
        check_signed(identity, key);
    }
}

fn check_packages(upload: &PackageUpload) {
    let all = upload.packages.iter().chain(&upload.last_resort);
    let init_keys: HashSet<_> = all.clone().map(|package| package.init_key_digest).collect();
    assert_eq!(init_keys.len(), all.clone().count());
    assert!(all.clone().all(|package| package.not_after > NOW && package.body.len() <= 4096));
}

/// The bodies of the other key routes, each of which the input may be. Taken when one of them is.
pub fn keys_body(data: &[u8]) -> bool {
    let outcomes = [
        parsed::<PreKeysBody>(data).is_some_and(|body| upload(&prekeys(body))),
        parsed::<RotateBody>(data)
            .and_then(|body| taken(rotation(body)))
            .is_some_and(|request| upload(&request)),
        parsed::<LinkBody>(data).is_some_and(|body| {
            DeviceId::parse(&body.device_id).is_ok() && taken(check::identity(&body.identity_key.0)).is_some()
        }),
        parsed::<CheckBody>(data).is_some(),
        parsed::<MlsKeyBody>(data).is_some_and(mls_key),
        parsed::<PackagesBody>(data).is_some_and(packages),
    ];
    outcomes.contains(&true)
}

/// Uploads are held against the identity key that they are signed by; of a stranger's none is taken that is signed.
fn upload(request: &UploadRequest) -> bool {
    let Some(identity) = own_identity() else { unreachable!("the identity key is one") };
    let Some(upload) = taken(checked_upload(&identity, request)) else { return false };
    let KeyUpload { signed_prekey, onetime_prekeys, kem_prekeys, last_resort_kem_prekey } = upload;
    for key in signed_prekey.iter().chain(&last_resort_kem_prekey) {
        check_signed(&identity, key);
    }
    check_lists(&identity, &onetime_prekeys, &kem_prekeys);
    true
}

/// The public half of the Ed25519 key whose seed is 32 times 7.
fn own_identity() -> Option<IdentityKey> {
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]).verifying_key();
    signal::parse_identity_key(key.as_bytes()).ok()
}

fn mls_key(body: MlsKeyBody) -> bool {
    let Some(identity) = own_identity() else { unreachable!("the identity key is one") };
    let caller = caller(1, "phone");
    taken(check::mls_key(&identity, (caller.user_id, &caller.device_id), "", &body.into())).is_some()
}

fn packages(body: PackagesBody) -> bool {
    let caller = caller(1, "phone");
    let owner = (caller.user_id, &caller.device_id);
    let upload = taken(check::packages(&package_rules(), owner, &body.into(), NOW));
    upload.is_some_and(|upload| {
        check_packages(&upload);
        true
    })
}

/// A key package of user 1's phone, as one-time and as last-resort one.
pub fn key_package(data: &[u8]) -> bool {
    let (caller, rules) = (caller(1, "phone"), package_rules());
    let owner: (UserId, &DeviceId) = (caller.user_id, &caller.device_id);
    let body = Bytes::copy_from_slice(data);
    let checked = |use_| mls::check_package(&rules, owner, use_, body.clone(), NOW);
    let (onetime, last_resort) = (checked(PackageUse::OneTime), checked(PackageUse::LastResort));
    assert!(onetime.is_err() || last_resort.is_err(), "a package is of one use");
    let Ok(package) = onetime.or(last_resort) else { return false };
    assert_eq!(package.body, data, "what was verified is what is kept");
    assert!(package.not_after > NOW && data.len() <= 4096);
    true
}

/// Raw public keys, and signatures: `identity (33 or 32) ‖ signature (64) ‖ message`. Taken when the signature verifies.
pub fn signal_keys(data: &[u8]) -> bool {
    if let Ok(key) = signal::parse_identity_key(data) {
        assert_eq!(key.as_bytes(), data);
    }
    if let Ok(key) = signal::parse_kem_prekey(Bytes::copy_from_slice(data)) {
        assert_eq!((key.len(), key.first()), (1569, Some(&8)));
    }
    [32, 33].into_iter().any(|length| signed(data, length))
}

fn signed(data: &[u8], length: usize) -> bool {
    let Some((identity, rest)) = data.split_at_checked(length) else { return false };
    let Ok(identity) = signal::parse_identity_key(identity) else { return false };
    let Some((signature, message)) = rest.split_first_chunk::<64>() else { return false };
    if let Ok(key) = signal::parse_ec_prekey(&identity, Bytes::copy_from_slice(message)) {
        assert_eq!(key, message);
    }
    if !signal::verify(&identity, message, signature) {
        return false;
    }
    let longer = [message, b"!"].concat();
    assert!(!signal::verify(&identity, &longer, signature), "a signature is of one message");
    let mut other = *signature;
    other[0] ^= 1;
    assert!(!signal::verify(&identity, message, &other), "and there is no second one of it");
    true
}
