//! The rules of key packages and signature keys, away from the store. Every refused package differs in one thing from one
//! that is accepted.

use std::{sync::LazyLock, time::Duration};

use bytes::Bytes;
use mls_rs::{CryptoProvider as _, MlsMessage};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use proptest::prelude::*;
use restante::{
    domain::{CipherSuite, DeviceId, KeyPackage, SignatureScheme, Timestamp, UserId},
    keys::{
        PackageRules,
        mls::{InvalidPackage, PackageUse, check_package, check_signature_key},
        signal::{InvalidKey, mls_key_statement},
    },
};
use uuid::Uuid;

use super::today;
use crate::support::{
    crypto::x25519,
    mothers::{self, DAY},
    packages::{Hand, HandKey, MlsKey},
};

const HOUR: u64 = 3_600;

/// A device that uploads, and the day it does.
struct Owner {
    user: UserId,
    device: DeviceId,
    now: Timestamp,
}

impl Owner {
    fn fresh() -> Self {
        let device = mothers::device_id("Phone_1.a-b");
        Self { user: mothers::user(), device, now: today() }
    }

    fn identity(&self) -> String {
        format!("{}:{}", self.user.uuid(), self.device.as_str())
    }

    fn check(&self, use_: PackageUse, body: &[u8]) -> Result<KeyPackage, InvalidPackage> {
        self.check_at(use_, body, self.now)
    }

    fn check_at(&self, use_: PackageUse, body: &[u8], now: Timestamp) -> Result<KeyPackage, InvalidPackage> {
        check_package(&all_suites(), (self.user, &self.device), use_, Bytes::copy_from_slice(body), now)
    }

    fn good(&self, key: &HandKey) -> Hand {
        Hand::good(key, &self.identity(), self.now)
    }
}

fn all_suites() -> PackageRules {
    let suites = [1, 2, 3].map(|number| CipherSuite::new(number).unwrap());
    PackageRules { cipher_suites: suites.to_vec(), max_lifetime: 90 * DAY }
}

fn reference_of(body: &[u8], suite: u16) -> Vec<u8> {
    let provider = RustCryptoProvider::default().cipher_suite_provider(suite.into()).unwrap();
    let message = MlsMessage::from_bytes(body).unwrap();
    message.key_package_reference(&provider).unwrap().unwrap().to_vec()
}

#[test]
fn packages_of_a_real_client_are_taken_and_read_in_every_suite() {
    let owner = Owner::fresh();
    for suite in [1, 2, 3] {
        let key = MlsKey::fresh(suite);
        let onetime = key.package(&owner.identity(), owner.now);
        let last_resort = key.last_resort(&owner.identity(), owner.now);
        for (use_, body) in [(PackageUse::OneTime, onetime), (PackageUse::LastResort, last_resort)] {
            let package = owner.check(use_, &body).unwrap();
            assert_eq!(package.cipher_suite.number(), suite);
            assert_eq!(package.signature_key, key.public);
            assert_eq!(package.reference.0.as_slice(), reference_of(&body, suite));
            assert_eq!(package.not_after.seconds(), owner.now.plus(30 * DAY).seconds());
            assert_eq!(package.body, body);
        }
    }
}

#[test]
fn a_package_made_by_hand_is_taken_with_the_digest_of_its_init_key() {
    let owner = Owner::fresh();
    for key in [HandKey::ed25519(), HandKey::p256()] {
        let hand = owner.good(&key);
        let package = owner.check(PackageUse::OneTime, &hand.sealed(&key)).unwrap();
        assert_eq!(package.init_key_digest, *blake3::hash(&hand.init_key).as_bytes());
        assert_eq!(package.signature_key, key.public());
    }
}

/// One thing that is changed before the package is signed, and why it is refused.
type Fault = (&'static str, fn(&mut Hand), InvalidPackage);

const FAULTS: &[Fault] = &[
    ("message version 2", |hand| hand.message_version = 2, InvalidPackage::Version),
    ("package version 2", |hand| hand.version = 2, InvalidPackage::Version),
    ("said to be a GroupInfo", |hand| hand.wire_format = 4, InvalidPackage::Malformed),
    ("suite 5", |hand| hand.suite = 5, InvalidPackage::CipherSuite),
    ("suite 0", |hand| hand.suite = 0, InvalidPackage::CipherSuite),
    ("a GREASE suite", |hand| hand.suite = 0x0A0A, InvalidPackage::CipherSuite),
    ("the suite of another scheme", |hand| hand.suite = 2, InvalidPackage::SignatureKey),
    ("an X.509 credential", |hand| hand.credential_type = 2, InvalidPackage::Credential),
    ("an unknown credential", |hand| hand.credential_type = 77, InvalidPackage::Credential),
    ("no identity", |hand| hand.identity.clear(), InvalidPackage::Credential),
    ("another device", |hand| hand.identity.push(b'x'), InvalidPackage::Credential),
    ("a capital user id", |hand| hand.identity[..36].make_ascii_uppercase(), InvalidPackage::Credential),
    ("a zero byte", |hand| hand.identity.push(0), InvalidPackage::Credential),
    ("no user", |hand| drop(hand.identity.drain(..37)), InvalidPackage::Credential),
    ("a short signature key", |hand| hand.signature_key.truncate(31), InvalidPackage::SignatureKey),
    ("a weak signature key", |hand| hand.signature_key = vec![0; 32], InvalidPackage::SignatureKey),
    (
        "another's signature key",
        |hand| hand.signature_key = HandKey::ed25519().public(),
        InvalidPackage::Signature,
    ),
    ("one key twice", |hand| hand.init_key = hand.encryption_key.clone(), InvalidPackage::EncryptionKeys),
    ("a short init key", |hand| hand.init_key.truncate(31), InvalidPackage::EncryptionKeys),
    ("a weak init key", |hand| hand.init_key = vec![0; 32], InvalidPackage::EncryptionKeys),
    ("a high init key", |hand| hand.init_key = vec![0xff; 32], InvalidPackage::EncryptionKeys),
    ("a long encryption key", |hand| hand.encryption_key.push(0), InvalidPackage::EncryptionKeys),
    ("a weak encryption key", |hand| hand.encryption_key = vec![0; 32], InvalidPackage::EncryptionKeys),
    ("the leaf of a commit", |hand| hand.source = 3, InvalidPackage::Leaf),
    ("no version", |hand| hand.versions.clear(), InvalidPackage::Capabilities),
    ("another suite", |hand| hand.suites = vec![3], InvalidPackage::Capabilities),
    ("another credential type", |hand| hand.credentials = vec![2], InvalidPackage::Capabilities),
    ("an unlisted extension", |hand| hand.extensions.push((0xF001, vec![1])), InvalidPackage::Capabilities),
    (
        "an unlisted leaf extension",
        |hand| hand.leaf_extensions.push((0xF001, vec![])),
        InvalidPackage::Capabilities,
    ),
    ("an extension twice", |hand| hand.extensions = vec![(10, vec![]); 2], InvalidPackage::Malformed),
    ("last resort", |hand| hand.extensions.push((10, vec![])), InvalidPackage::IsLastResort),
    ("ended", |hand| hand.not_after = hand.not_before, InvalidPackage::NotNow),
    ("not begun", |hand| hand.not_before += HOUR, InvalidPackage::NotNow),
    ("never begins", |hand| hand.not_before = u64::MAX, InvalidPackage::NotNow),
    ("for ever", |hand| hand.not_after = u64::MAX, InvalidPackage::LivesTooLong),
    (
        "a second too long",
        |hand| hand.not_after = hand.not_before + 90 * 24 * HOUR + 2 * HOUR + 1,
        InvalidPackage::LivesTooLong,
    ),
    ("very large", |hand| hand.leaf_extensions.push((1, vec![7; 4096])), InvalidPackage::TooLarge),
];

#[test]
fn each_rule_refuses_the_package_that_breaks_it() {
    let (owner, key) = (Owner::fresh(), HandKey::ed25519());
    for (what, change, why) in FAULTS {
        let mut hand = owner.good(&key);
        owner.check(PackageUse::OneTime, &hand.sealed(&key)).unwrap();
        change(&mut hand);
        let refused = owner.check(PackageUse::OneTime, &hand.sealed(&key)).unwrap_err();
        assert_eq!(refused, *why, "{what}");
    }
}

type Variety = (&'static str, fn(&mut Hand));

/// Things that a package may have.
const VARIETY: &[Variety] = &[
    ("suite 3", |hand| (hand.suite, hand.suites) = (3, vec![3])),
    ("GREASE", |hand| hand.extension_types.push(0x0A0A)),
    ("a listed extension", |hand| {
        hand.extensions.push((0xF001, vec![1]));
        hand.extension_types.push(0xF001);
    }),
    ("an application id", |hand| hand.leaf_extensions.push((1, b"\x03app".to_vec()))),
    ("more suites and credentials", |hand| {
        hand.suites.extend([2, 3, 7]);
        hand.credentials.push(2);
    }),
    ("the longest life", |hand| hand.not_after = hand.not_before + 90 * 24 * HOUR + 2 * HOUR),
    ("a past beginning", |hand| hand.not_before -= 40 * 24 * HOUR),
    ("a large leaf", |hand| {
        hand.leaf_extensions.push((0xF002, vec![7; 3000]));
        hand.extension_types.push(0xF002);
    }),
];

#[test]
fn what_a_package_may_have_is_taken() {
    let (owner, key) = (Owner::fresh(), HandKey::ed25519());
    for (what, change) in VARIETY {
        let mut hand = owner.good(&key);
        change(&mut hand);
        let taken = owner.check(PackageUse::OneTime, &hand.sealed(&key));
        assert!(taken.is_ok(), "{what}: {taken:?}");
    }
}

#[test]
fn a_last_resort_package_says_so_and_a_one_time_one_does_not() {
    let (owner, key) = (Owner::fresh(), HandKey::ed25519());
    let onetime = owner.good(&key);
    let last_resort = Hand { extensions: vec![(10, vec![])], ..onetime.clone() }.sealed(&key);
    let onetime = onetime.sealed(&key);
    owner.check(PackageUse::OneTime, &onetime).unwrap();
    owner.check(PackageUse::LastResort, &last_resort).unwrap();
    assert_eq!(owner.check(PackageUse::LastResort, &onetime), Err(InvalidPackage::NotLastResort));
    assert_eq!(owner.check(PackageUse::OneTime, &last_resort), Err(InvalidPackage::IsLastResort));
}

#[test]
fn points_beside_the_curve_are_refused_in_every_place_of_suite_2() {
    let (owner, key) = (Owner::fresh(), HandKey::p256());
    let beside = |point: &mut Vec<u8>| *point.last_mut().unwrap() ^= 1;
    let mut init = owner.good(&key);
    beside(&mut init.init_key);
    let mut encryption = owner.good(&key);
    beside(&mut encryption.encryption_key);
    let mut compressed = owner.good(&key);
    compressed.init_key.truncate(33);
    compressed.init_key[0] = 2;
    for hand in [init, encryption, compressed] {
        let refused = owner.check(PackageUse::OneTime, &hand.sealed(&key));
        assert_eq!(refused, Err(InvalidPackage::EncryptionKeys));
    }
    let mut signature = owner.good(&key);
    beside(&mut signature.signature_key);
    assert_eq!(owner.check(PackageUse::OneTime, &signature.sealed(&key)), Err(InvalidPackage::SignatureKey));
}

#[test]
fn a_lifetime_is_held_against_the_given_time_to_the_second() {
    let (owner, key) = (Owner::fresh(), HandKey::ed25519());
    let hand = owner.good(&key);
    let (begin, end) = (hand.not_before.cast_signed() * 1000, hand.not_after.cast_signed() * 1000);
    let at = |millis| owner.check_at(PackageUse::OneTime, &hand.sealed(&key), Timestamp::from_millis(millis));
    at(begin).unwrap();
    at(end - 1).unwrap();
    assert_eq!(at(begin - 1), Err(InvalidPackage::NotNow));
    assert_eq!(at(end), Err(InvalidPackage::NotNow));
}

#[test]
fn the_longest_lifetime_is_a_setting() {
    let (owner, key) = (Owner::fresh(), HandKey::ed25519());
    let body = Bytes::from(owner.good(&key).sealed(&key));
    let check = |max_lifetime| {
        let rules = PackageRules { max_lifetime, ..all_suites() };
        check_package(&rules, (owner.user, &owner.device), PackageUse::OneTime, body.clone(), owner.now)
    };
    check(30 * DAY).unwrap();
    check(Duration::from_hours(30 * 24 - 2)).unwrap();
    assert_eq!(check(29 * DAY), Err(InvalidPackage::LivesTooLong));
}

#[test]
fn a_suite_that_is_not_on_the_list_is_refused() {
    let (owner, key) = (Owner::fresh(), HandKey::p256());
    let body = Bytes::from(owner.good(&key).sealed(&key));
    let check = |number| {
        let rules = PackageRules { cipher_suites: vec![CipherSuite::new(number).unwrap()], ..all_suites() };
        check_package(&rules, (owner.user, &owner.device), PackageUse::OneTime, body.clone(), owner.now)
    };
    check(2).unwrap();
    assert_eq!(check(1), Err(InvalidPackage::CipherSuite));
}

#[test]
fn a_package_that_lost_or_gained_bytes_is_refused() {
    let (owner, key) = (Owner::fresh(), HandKey::ed25519());
    let body = owner.good(&key).sealed(&key);
    for length in 0..body.len() {
        assert!(owner.check(PackageUse::OneTime, &body[..length]).is_err(), "the first {length} bytes");
    }
    let longer = [&body[..], &[0]].concat();
    assert_eq!(owner.check(PackageUse::OneTime, &longer), Err(InvalidPackage::Malformed));
    let bare = &body[4..];
    assert!(owner.check(PackageUse::OneTime, bare).is_err(), "without the message around it");
}

#[test]
fn a_flipped_bit_in_any_byte_of_a_genuine_package_is_noticed() {
    let owner = Owner::fresh();
    for suite in [1, 2] {
        let key = MlsKey::fresh(suite);
        let body = key.package(&owner.identity(), owner.now);
        owner.check(PackageUse::OneTime, &body).unwrap();
        for (index, bit) in (0..body.len()).flat_map(|index| [(index, 0x01), (index, 0x80)]) {
            let mut flipped = body.clone();
            flipped[index] ^= bit;
            let taken = owner.check(PackageUse::OneTime, &flipped);
            assert!(taken.is_err(), "suite {suite}, bit {bit:#x} of byte {index}");
        }
    }
}

static GENUINE: LazyLock<(Owner, Vec<u8>)> = LazyLock::new(|| {
    let (owner, key) = (Owner::fresh(), HandKey::ed25519());
    let body = owner.good(&key).sealed(&key);
    (owner, body)
});

proptest! {
    #[test]
    fn no_bytes_pass_for_a_package_or_end_the_relay(tail in prop::collection::vec(any::<u8>(), 0..600), headed in any::<bool>()) {
        let head: &[u8] = if headed { &[0, 1, 0, 5, 0, 1, 0, 1] } else { &[] };
        let body = [head, &tail].concat();
        prop_assert!(GENUINE.0.check(PackageUse::OneTime, &body).is_err());
    }

    #[test]
    fn a_genuine_package_with_other_bytes_in_it_is_refused(
        at in any::<prop::sample::Index>(),
        cut in 0..40_usize,
        put in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let (owner, genuine) = &*GENUINE;
        let from = at.index(genuine.len());
        let to = genuine.len().min(from + cut);
        let body = [&genuine[..from], &put, &genuine[to..]].concat();
        prop_assume!(body != *genuine);
        prop_assert!(owner.check(PackageUse::OneTime, &body).is_err());
    }

    #[test]
    fn no_bytes_end_the_check_of_a_signature_key(key in prop::collection::vec(any::<u8>(), 0..70)) {
        for scheme in [SignatureScheme::Ed25519, SignatureScheme::EcdsaP256] {
            let checked = check_signature_key(scheme, &key);
            prop_assert!(checked.is_err() || key.len() == 32);
        }
    }
}

#[test]
fn signature_keys_are_points_of_their_scheme_in_its_one_form() {
    let ed25519 = HandKey::ed25519().public();
    check_signature_key(SignatureScheme::Ed25519, &ed25519).unwrap();
    let p256 = HandKey::p256().public();
    check_signature_key(SignatureScheme::EcdsaP256, &p256).unwrap();

    let mut identity_point = [0; 32];
    identity_point[0] = 1;
    // y = p, a second spelling of y = 0, and y = 2, which is on no curve point.
    let mut spelled_twice = [0xff; 32];
    (spelled_twice[0], spelled_twice[31]) = (0xed, 0x7f);
    let mut beside = [0; 32];
    beside[0] = 2;
    let ed25519_faults: [(&[u8], InvalidKey); 6] = [
        (&[], InvalidKey::WrongLength { expected: "32" }),
        (&ed25519[..31], InvalidKey::WrongLength { expected: "32" }),
        (&p256, InvalidKey::WrongLength { expected: "32" }),
        (&identity_point, InvalidKey::LowOrder),
        (&spelled_twice, InvalidKey::NonCanonical),
        (&beside, InvalidKey::NotOnCurve),
    ];
    for (key, why) in ed25519_faults {
        assert_eq!(check_signature_key(SignatureScheme::Ed25519, key), Err(why), "{key:02x?}");
    }

    let mut off = p256.clone();
    *off.last_mut().unwrap() ^= 1;
    let mut compressed_tag = p256.clone();
    compressed_tag[0] = 2;
    let high = [&[4][..], &[0xff; 64]].concat();
    let p256_faults: [(&[u8], InvalidKey); 6] = [
        (&p256[..33], InvalidKey::WrongLength { expected: "65" }),
        (&[0], InvalidKey::WrongLength { expected: "65" }),
        (&x25519(), InvalidKey::WrongLength { expected: "65" }),
        (&compressed_tag, InvalidKey::WrongPrefix { expected: 4 }),
        (&off, InvalidKey::NotOnCurve),
        (&high, InvalidKey::NotOnCurve),
    ];
    for (key, why) in p256_faults {
        assert_eq!(check_signature_key(SignatureScheme::EcdsaP256, key), Err(why), "{key:02x?}");
    }
}

#[test]
fn the_statement_of_a_signature_key_binds_user_device_and_scheme() {
    let user = UserId::new(Uuid::from_u128(0xABCD));
    let said = mls_key_statement(user, &mothers::device_id("phone"), SignatureScheme::Ed25519, &[7; 32]);
    let expected =
        [&b"restante-mls-v1\x0000000000-0000-0000-0000-00000000abcd\0phone\x002055\0"[..], &[7; 32]].concat();
    assert_eq!(said, expected);
    let said = mls_key_statement(user, &mothers::device_id("phone"), SignatureScheme::EcdsaP256, &[4; 65]);
    assert!(said.windows(6).any(|part| part == b"\x001027\0"));
}
