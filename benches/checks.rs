//! What the pure checks of keys and bodies cost.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a bench that cannot be set up has to stop")]

#[path = "../tests/clients/signal_bodies.rs"]
mod signal_bodies;

use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use ed25519_dalek::{Signer, SigningKey};
use libsignal_protocol::{IdentityKeyPair, kem};
use rand::{Rng, TryRngCore, rngs::OsRng};
use restante::{
    domain::{EnvelopeType, Signature},
    keys::signal::{parse_identity_key, parse_kem_prekey, verify},
    messages::structure,
};

fn keys(criterion: &mut Criterion) {
    let mut rng = OsRng.unwrap_err();
    let message: [u8; 33] = [5; 33];

    let signal = IdentityKeyPair::generate(&mut rng);
    let identity = parse_identity_key(&signal.identity_key().serialize()).unwrap();
    let signature = signal.private_key().calculate_signature(&message, &mut rng).unwrap();
    let signature: Signature = (*signature).try_into().unwrap();
    assert!(verify(&identity, &message, &signature));
    criterion.bench_function("verify/xeddsa", |bencher| {
        bencher.iter(|| verify(black_box(&identity), &message, &signature));
    });

    let signer = SigningKey::from_bytes(&rng.random());
    let identity = parse_identity_key(signer.verifying_key().as_bytes()).unwrap();
    let signature = signer.sign(&message).to_bytes();
    assert!(verify(&identity, &message, &signature));
    criterion.bench_function("verify/ed25519", |bencher| {
        bencher.iter(|| verify(black_box(&identity), &message, &signature));
    });

    let kyber = kem::KeyPair::generate(kem::KeyType::Kyber1024, &mut rng).public_key.serialize();
    let kyber = Bytes::from(kyber.into_vec());
    criterion.bench_function("parse/kem_prekey", |bencher| {
        bencher.iter(|| parse_kem_prekey(black_box(kyber.clone())));
    });
}

fn bodies(criterion: &mut Criterion) {
    let bodies = signal_bodies::make();
    let opaque = vec![0xa5; 1024];
    let cases = [
        ("prekey", EnvelopeType::PreKey, &bodies.prekey),
        ("whisper", EnvelopeType::Whisper, &bodies.whisper),
        ("sender_key", EnvelopeType::SenderKey, &bodies.sender_key),
        ("sealed_v1", EnvelopeType::Sealed, &bodies.sealed_v1),
        ("sealed_v2", EnvelopeType::Sealed, &bodies.sealed_v2),
        ("plaintext_content", EnvelopeType::PlaintextContent, &bodies.plaintext_content),
        ("opaque", EnvelopeType::Opaque, &opaque),
    ];
    let mut group = criterion.benchmark_group("structure");
    for (name, envelope_type, body) in cases {
        assert_eq!(structure::check(envelope_type, body), Ok(()), "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| structure::check(envelope_type, black_box(body)));
        });
    }
    group.finish();
}

criterion_group!(checks, keys, bodies);
criterion_main!(checks);
