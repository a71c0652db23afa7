//! The vectors are made on the spot by Signal's own library, so every run tries fresh ones.

use curve25519_dalek::constants::EIGHT_TORSION;
use ed25519_dalek::{Signer, SigningKey};
use libsignal_protocol::{IdentityKeyPair, KeyPair, kem};
use proptest::prelude::*;
use rand::{CryptoRng, Rng, TryRngCore, rngs::OsRng};
use uuid::Uuid;

use super::*;
use crate::domain::KeyId;

fn signal_identity(rng: &mut (impl Rng + CryptoRng)) -> (IdentityKeyPair, IdentityKey) {
    let pair = IdentityKeyPair::generate(rng);
    let key = parse_identity_key(&pair.identity_key().serialize()).unwrap();
    (pair, key)
}

fn sign(signer: &IdentityKeyPair, message: &[u8], rng: &mut (impl Rng + CryptoRng)) -> Signature {
    let signature = signer.private_key().calculate_signature(message, rng).unwrap();
    (*signature).try_into().unwrap()
}

fn ec_prekey(rng: &mut (impl Rng + CryptoRng)) -> Bytes {
    KeyPair::generate(rng).public_key.serialize().into_vec().into()
}

fn with_prefix(u: &[u8; 32]) -> Bytes {
    [&[EC_PREFIX][..], u].concat().into()
}

#[test]
fn what_signals_library_signs_is_accepted_with_either_sign_bit() {
    let mut rng = OsRng.unwrap_err();
    let mut rounds_by_sign = [0, 0];
    for _ in 0..200 {
        let (pair, identity) = signal_identity(&mut rng);
        let prekey = parse_ec_prekey(&identity, ec_prekey(&mut rng)).unwrap();
        let signature = sign(&pair, &prekey, &mut rng);
        assert!(verify(&identity, &prekey, &signature));
        rounds_by_sign[usize::from(signature[63] >> 7)] += 1;
    }
    assert!(rounds_by_sign.iter().all(|&rounds| rounds > 20), "{rounds_by_sign:?}");
}

#[test]
fn a_kyber_prekey_of_signals_library_parses_and_verifies() {
    let mut rng = OsRng.unwrap_err();
    let (pair, identity) = signal_identity(&mut rng);
    for _ in 0..20 {
        let kyber = kem::KeyPair::generate(kem::KeyType::Kyber1024, &mut rng);
        let prekey = parse_kem_prekey(kyber.public_key.serialize().into_vec().into()).unwrap();
        let signature = sign(&pair, &prekey, &mut rng);
        assert!(verify(&identity, &prekey, &signature));
        assert!(!verify(&identity, &prekey[..1568], &signature));
    }
}

#[test]
fn a_flipped_bit_of_signature_message_or_key_is_refused() {
    let mut rng = OsRng.unwrap_err();
    let (pair, identity) = signal_identity(&mut rng);
    let prekey = ec_prekey(&mut rng);
    let signature = sign(&pair, &prekey, &mut rng);
    for bit in 0..512 {
        let mut forged = signature;
        forged[bit / 8] ^= 1 << (bit % 8);
        assert!(!verify(&identity, &prekey, &forged), "signature bit {bit}");
    }
    for bit in 0..prekey.len() * 8 {
        let mut altered = prekey.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        assert!(!verify(&identity, &altered, &signature), "message bit {bit}");
    }
    let IdentityKey::Signal(key) = identity else { panic!("a Signal identity") };
    for bit in 8..33 * 8 {
        let mut other = key;
        other[bit / 8] ^= 1 << (bit % 8);
        // Decoding ignores the top bit, so a spelling with it set would verify; it is refused when it is parsed.
        let accepted = parse_identity_key(&other).is_ok_and(|other| verify(&other, &prekey, &signature));
        assert!(!accepted, "identity bit {bit}");
    }
}

#[test]
fn a_signature_of_another_identity_is_refused() {
    let mut rng = OsRng.unwrap_err();
    let (pair, _) = signal_identity(&mut rng);
    let prekey = ec_prekey(&mut rng);
    let signature = sign(&pair, &prekey, &mut rng);
    for _ in 0..50 {
        let (_, stranger) = signal_identity(&mut rng);
        assert!(!verify(&stranger, &prekey, &signature));
    }
}

#[test]
fn an_ed25519_identity_signs_x25519_prekeys() {
    let mut rng = OsRng.unwrap_err();
    for _ in 0..50 {
        let signer = SigningKey::from_bytes(&rng.random());
        let identity = parse_identity_key(signer.verifying_key().as_bytes()).unwrap();
        let public = MontgomeryPoint::mul_base_clamped(rng.random());
        let prekey = parse_ec_prekey(&identity, Bytes::copy_from_slice(&public.0)).unwrap();
        let signature = signer.sign(&prekey).to_bytes();
        assert!(verify(&identity, &prekey, &signature));
        for bit in [0, 255, 256, 511] {
            let mut forged = signature;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify(&identity, &prekey, &forged));
        }
    }
}

#[test]
fn no_signature_is_accepted_for_a_low_order_identity() {
    // Not through the parser, which refuses such keys: the verification must hold alone.
    for u in LOW_ORDER {
        let mut key = [EC_PREFIX; 33];
        key[1..].copy_from_slice(&u);
        for torsion in EIGHT_TORSION {
            for sign in [0, 0x80] {
                let mut signature = [0; 64];
                signature[..32].copy_from_slice(torsion.compress().as_bytes());
                signature[63] |= sign;
                assert!(!verify(&IdentityKey::Signal(key), b"any message", &signature));
            }
        }
    }
    for torsion in EIGHT_TORSION {
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(EIGHT_TORSION[0].compress().as_bytes());
        let identity = IdentityKey::Ed25519(torsion.compress().to_bytes());
        assert!(!verify(&identity, b"any message", &signature));
    }
}

#[test]
fn low_order_points_are_refused_everywhere() {
    let mut rng = OsRng.unwrap_err();
    let (_, signal) = signal_identity(&mut rng);
    let ed25519 = IdentityKey::Ed25519([0; 32]);
    for u in LOW_ORDER {
        assert_eq!(MontgomeryPoint(u).mul_clamped(rng.random()).0, [0; 32], "the list holds low orders only");
        assert_eq!(parse_identity_key(&with_prefix(&u)), Err(InvalidKey::LowOrder));
        assert_eq!(parse_ec_prekey(&signal, with_prefix(&u)), Err(InvalidKey::LowOrder));
        assert_eq!(parse_ec_prekey(&ed25519, Bytes::copy_from_slice(&u)), Err(InvalidKey::LowOrder));
    }
    for torsion in EIGHT_TORSION {
        assert!(LOW_ORDER.contains(&torsion.to_montgomery().0), "the list holds every low order");
        assert_eq!(parse_identity_key(torsion.compress().as_bytes()), Err(InvalidKey::LowOrder));
    }
}

#[test]
fn non_canonical_spellings_are_refused() {
    let mut rng = OsRng.unwrap_err();
    let (pair, signal) = signal_identity(&mut rng);
    let ed25519 = IdentityKey::Ed25519([0; 32]);
    // 2^255 − 19 … 2^255 − 1 spell 0 … 18 a second time.
    for low in 0xed..=0xff {
        let mut u = FIELD_PRIME;
        u[0] = low;
        assert_eq!(parse_identity_key(&with_prefix(&u)), Err(InvalidKey::NonCanonical));
        assert_eq!(parse_ec_prekey(&signal, with_prefix(&u)), Err(InvalidKey::NonCanonical));
        assert_eq!(parse_ec_prekey(&ed25519, Bytes::copy_from_slice(&u)), Err(InvalidKey::NonCanonical));
        for top_bit in [0, 0x80] {
            let mut y = u;
            y[31] |= top_bit;
            assert!(parse_identity_key(&y).is_err());
        }
    }
    let mut key = pair.identity_key().serialize();
    key[32] |= 0x80;
    assert_eq!(parse_identity_key(&key), Err(InvalidKey::NonCanonical));
    assert_eq!(parse_ec_prekey(&signal, key.into_vec().into()), Err(InvalidKey::NonCanonical));
    // y = 1 with the sign of x set, though x is zero.
    let mut identity_point = EIGHT_TORSION[0].compress().to_bytes();
    identity_point[31] |= 0x80;
    assert_eq!(parse_identity_key(&identity_point), Err(InvalidKey::NonCanonical));
}

#[test]
fn identity_keys_off_the_curve_are_refused() {
    let mut on_twist = [0; 32];
    let mut off_curve = [0; 32];
    on_twist[0] = (2..=u8::MAX).find(|&u| montgomery(u).to_edwards(0).is_none()).unwrap();
    off_curve[0] = (2..=u8::MAX).find(|&y| edwards(y).decompress().is_none()).unwrap();
    assert_eq!(parse_identity_key(&with_prefix(&on_twist)), Err(InvalidKey::NotOnCurve));
    assert_eq!(parse_identity_key(&off_curve), Err(InvalidKey::NotOnCurve));
    // Agreement works on the twist as well, so a pre-key may lie there.
    assert!(parse_ec_prekey(&IdentityKey::Ed25519([0; 32]), Bytes::copy_from_slice(&on_twist)).is_ok());
}

fn montgomery(u: u8) -> MontgomeryPoint {
    let mut bytes = [0; 32];
    bytes[0] = u;
    MontgomeryPoint(bytes)
}

fn edwards(y: u8) -> CompressedEdwardsY {
    let mut bytes = [0; 32];
    bytes[0] = y;
    CompressedEdwardsY(bytes)
}

#[test]
fn lengths_and_type_bytes_are_exact() {
    let mut rng = OsRng.unwrap_err();
    let (pair, signal) = signal_identity(&mut rng);
    let ed25519 = IdentityKey::Ed25519([0; 32]);
    let serialised = pair.identity_key().serialize();

    let trailing = [&serialised[..], &[0]].concat();
    let wrong = InvalidKey::WrongLength { expected: "32 or 33" };
    assert_eq!(parse_identity_key(&trailing), Err(wrong));
    assert_eq!(parse_identity_key(&serialised[..31]), Err(wrong));
    assert_eq!(parse_identity_key(&[]), Err(wrong));

    let wrong = InvalidKey::WrongLength { expected: "33" };
    assert_eq!(parse_ec_prekey(&signal, trailing.into()), Err(wrong));
    assert_eq!(parse_ec_prekey(&signal, Bytes::copy_from_slice(&serialised[1..])), Err(wrong));
    let wrong = InvalidKey::WrongLength { expected: "32" };
    assert_eq!(parse_ec_prekey(&ed25519, Bytes::copy_from_slice(&serialised)), Err(wrong));

    let mut other_type = serialised.into_vec();
    other_type[0] = 0x06;
    let wrong = InvalidKey::WrongPrefix { expected: 0x05 };
    assert_eq!(parse_identity_key(&other_type), Err(wrong));
    assert_eq!(parse_ec_prekey(&signal, other_type.into()), Err(wrong));

    let kyber = kem::KeyPair::generate(kem::KeyType::Kyber1024, &mut rng).public_key.serialize();
    let wrong = InvalidKey::WrongLength { expected: "1569" };
    assert_eq!(parse_kem_prekey([&kyber[..], &[0]].concat().into()), Err(wrong));
    assert_eq!(parse_kem_prekey(Bytes::copy_from_slice(&kyber[1..])), Err(wrong));
    assert_eq!(parse_kem_prekey(Bytes::new()), Err(wrong));
    let mut other_type = kyber.into_vec();
    other_type[0] = 0x0a;
    assert_eq!(parse_kem_prekey(other_type.into()), Err(InvalidKey::WrongPrefix { expected: 0x08 }));
}

#[test]
fn statements_are_the_bytes_that_the_contract_names() {
    let user_id = UserId::new(Uuid::from_u128(0xABCD));
    let device_id = DeviceId::parse("Phone-1").unwrap();
    let identity = IdentityKey::Ed25519([7; 32]);
    let mut expected =
        b"restante-register-v1\0localhost\x0000000000-0000-0000-0000-00000000abcd\0Phone-1\0".to_vec();
    expected.extend_from_slice(&Sha256::digest([9; 32]));
    assert_eq!(register_statement("localhost", user_id, &device_id, &[9; 32]), expected);

    let mut expected = b"restante-link-v1\x0000000000-0000-0000-0000-00000000abcd\0Phone-1\0".to_vec();
    expected.extend_from_slice(&[7; 32]);
    assert_eq!(link_statement(user_id, &device_id, &identity), expected);

    let expected =
        b"restante-auth-v1\0localhost\x0000000000-0000-0000-0000-00000000abcd\0Phone-1\0challenge".to_vec();
    assert_eq!(login_statement("localhost", user_id, &device_id, "challenge"), expected);

    let mut expected = b"restante-recover-v1\0localhost\x0000000000-0000-0000-0000-00000000abcd\0".to_vec();
    expected.extend_from_slice(&[7; 32]);
    assert_eq!(recover_statement("localhost", user_id, &identity), expected);
}

#[test]
fn the_key_digest_covers_every_lasting_key_in_order() {
    let identity = IdentityKey::Ed25519([7; 32]);
    let prekey = |id: i64, byte: u8, length: usize| SignedPreKey {
        id: KeyId::new(id).unwrap(),
        public_key: vec![byte; length].into(),
        signature: [0; 64],
    };
    let signed = prekey(258, 1, 32);
    let last_resort = prekey(3, 2, KEM_LENGTH);
    let mut bytes = [[7; 32].as_slice(), &[0, 0, 0, 0, 0, 0, 1, 2], &[1; 32]].concat();
    assert_eq!(key_digest(&identity, &signed, None), <[u8; 32]>::from(Sha256::digest(&bytes)));
    bytes.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 3]);
    bytes.extend_from_slice(&[2; KEM_LENGTH]);
    assert_eq!(key_digest(&identity, &signed, Some(&last_resort)), <[u8; 32]>::from(Sha256::digest(&bytes)));
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_never_verify(
        bytes in proptest::collection::vec(any::<u8>(), 0..64),
        halves in any::<([u8; 32], [u8; 32])>(),
    ) {
        let signature: Signature = [halves.0, halves.1].concat().try_into().unwrap();
        if let Ok(identity) = parse_identity_key(&bytes) {
            prop_assert!(!verify(&identity, b"any message", &signature));
        }
    }
}
