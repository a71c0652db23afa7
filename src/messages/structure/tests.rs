use proptest::prelude::*;
use prost::Message;

use super::{
    EnvelopeType, Malformed, check,
    proto::{Content, DecryptionErrorMessage, PreKeySignalMessage, SignalMessage},
    signal_bodies::{self, SignalBodies},
};
use crate::domain::is_plaintext;

const TYPES: [EnvelopeType; 6] = [
    EnvelopeType::PreKey,
    EnvelopeType::Whisper,
    EnvelopeType::SenderKey,
    EnvelopeType::Sealed,
    EnvelopeType::PlaintextContent,
    EnvelopeType::Opaque,
];

fn typed(bodies: &SignalBodies) -> [(EnvelopeType, &[u8]); 6] {
    [
        (EnvelopeType::PreKey, &bodies.prekey),
        (EnvelopeType::Whisper, &bodies.whisper),
        (EnvelopeType::SenderKey, &bodies.sender_key),
        (EnvelopeType::Sealed, &bodies.sealed_v1),
        (EnvelopeType::Sealed, &bodies.sealed_v2),
        (EnvelopeType::PlaintextContent, &bodies.plaintext_content),
    ]
}

#[test]
fn real_bodies_pass_their_own_check_and_no_other() {
    for _ in 0..20 {
        let bodies = signal_bodies::make();
        for (own, body) in typed(&bodies) {
            assert_eq!(check(own, body), Ok(()), "{own:?}");
            assert!(!is_plaintext(body), "{own:?}");
            for other in TYPES {
                if other != own && other != EnvelopeType::Opaque {
                    assert!(check(other, body).is_err(), "{own:?} as {other:?}");
                }
            }
        }
    }
}

#[test]
fn truncated_bodies_never_panic_and_plaintext_content_is_never_cut_short() {
    let bodies = signal_bodies::make();
    for (_, body) in typed(&bodies) {
        for length in 0..body.len() {
            for envelope_type in TYPES {
                let verdict = check(envelope_type, &body[..length]);
                if envelope_type == EnvelopeType::PlaintextContent {
                    assert!(verdict.is_err(), "{length}");
                }
            }
        }
    }
}

#[test]
fn an_altered_version_is_refused() {
    let bodies = signal_bodies::make();
    for (own, body) in typed(&bodies) {
        for version in [0x00, 0x20, 0x50, 0xf0] {
            let mut other = body.to_vec();
            other[0] = version;
            assert_eq!(check(own, &other), Err(Malformed::Version), "{own:?} {version:#04x}");
        }
    }
}

fn whisper() -> SignalMessage {
    SignalMessage { ratchet_key: Some(vec![5; 33]), counter: Some(0), ciphertext: Some(vec![1; 16]) }
}

fn whisper_body(message: &SignalMessage) -> Vec<u8> {
    [&[0x44][..], &message.encode_to_vec(), &[0; 8]].concat()
}

#[test]
fn a_whisper_names_the_field_that_is_wrong() {
    let verdict = |change: fn(&mut SignalMessage)| {
        let mut message = whisper();
        change(&mut message);
        check(EnvelopeType::Whisper, &whisper_body(&message))
    };
    assert_eq!(verdict(|_| ()), Ok(()));
    assert_eq!(verdict(|message| message.ratchet_key = None), Err(Malformed::Missing("ratchet_key")));
    assert_eq!(verdict(|message| message.counter = None), Err(Malformed::Missing("counter")));
    assert_eq!(verdict(|message| message.ciphertext = None), Err(Malformed::Missing("ciphertext")));
    for key in [vec![5; 32], vec![5; 34], vec![6; 33]] {
        let body = whisper_body(&SignalMessage { ratchet_key: Some(key), ..whisper() });
        assert_eq!(check(EnvelopeType::Whisper, &body), Err(Malformed::BadField("ratchet_key")));
    }
}

fn prekey() -> PreKeySignalMessage {
    let mut kyber_ciphertext = vec![0; 1569];
    kyber_ciphertext[0] = 8;
    PreKeySignalMessage {
        base_key: Some(vec![5; 33]),
        identity_key: Some(vec![5; 33]),
        message: Some(whisper_body(&whisper())),
        signed_pre_key_id: Some(0),
        kyber_pre_key_id: Some(0),
        kyber_ciphertext: Some(kyber_ciphertext),
    }
}

fn prekey_body(version: u8, message: &PreKeySignalMessage) -> Vec<u8> {
    [&[version][..], &message.encode_to_vec()].concat()
}

#[test]
fn a_kem_ciphertext_may_be_absent_before_version_4_but_not_by_half() {
    let whole = prekey();
    let none = PreKeySignalMessage { kyber_pre_key_id: None, kyber_ciphertext: None, ..whole.clone() };
    let no_id = PreKeySignalMessage { kyber_pre_key_id: None, ..whole.clone() };
    let mut short = whole.clone();
    short.kyber_ciphertext = Some(vec![8; 1568]);

    assert_eq!(check(EnvelopeType::PreKey, &prekey_body(0x44, &whole)), Ok(()));
    assert_eq!(check(EnvelopeType::PreKey, &prekey_body(0x34, &none)), Ok(()));
    let missing = Err(Malformed::Missing("kyber_pre_key_id"));
    assert_eq!(check(EnvelopeType::PreKey, &prekey_body(0x44, &none)), missing);
    assert_eq!(check(EnvelopeType::PreKey, &prekey_body(0x34, &no_id)), missing);
    let bad = Err(Malformed::BadField("kyber_ciphertext"));
    assert_eq!(check(EnvelopeType::PreKey, &prekey_body(0x44, &short)), bad);
}

#[test]
fn a_prekey_message_holds_a_well_built_whisper() {
    let text = PreKeySignalMessage { message: Some(b"hello".to_vec()), ..prekey() };
    assert_eq!(check(EnvelopeType::PreKey, &prekey_body(0x44, &text)), Err(Malformed::Version));
}

fn plaintext_content(content: &[u8]) -> Vec<u8> {
    [&[0xc0][..], content, &[0x80]].concat()
}

fn decryption_error() -> DecryptionErrorMessage {
    DecryptionErrorMessage { ratchet_key: None, timestamp: Some(1), device_id: Some(1) }
}

fn content(error: &[u8]) -> Vec<u8> {
    Content { decryption_error_message: Some(error.to_vec()) }.encode_to_vec()
}

#[test]
fn plaintext_content_smuggles_nothing() {
    let verdict = |body: &[u8]| check(EnvelopeType::PlaintextContent, body);
    let error = decryption_error().encode_to_vec();
    let honest = content(&error);
    assert_eq!(verdict(&plaintext_content(&honest)), Ok(()));

    // Field 1 of a Content is the data message, which must never travel in clear; field 15 is nobody's.
    let smuggled = Err(Malformed::NotDecryptionError);
    for tag in [0x0a, 0x7a] {
        let text = [&[tag, 5][..], b"hello"].concat();
        assert_eq!(verdict(&plaintext_content(&text)), smuggled);
        assert_eq!(verdict(&plaintext_content(&[&honest[..], &text].concat())), smuggled);
        assert_eq!(verdict(&plaintext_content(&[&text[..], &honest].concat())), smuggled);
    }
    let text_in_error = [&error[..], &[0x7a, 5], b"hello"].concat();
    assert_eq!(verdict(&plaintext_content(&content(&text_in_error))), smuggled);
    assert_eq!(verdict(&plaintext_content(&[&honest[..], &honest].concat())), smuggled, "said twice");
}

#[test]
fn plaintext_content_ends_at_its_boundary() {
    let verdict = |body: &[u8]| check(EnvelopeType::PlaintextContent, body);
    let honest = plaintext_content(&content(&decryption_error().encode_to_vec()));
    assert_eq!(verdict(&[&honest[..], b"hello"].concat()), Err(Malformed::NotDecryptionError));
    assert!(verdict(&[&honest[..], &[0x80]].concat()).is_err());
    assert_eq!(verdict(&[0xc0]), Err(Malformed::NotDecryptionError));
    assert_eq!(verdict(&[0xc0, 0x80]), Err(Malformed::Missing("decryption_error_message")));
    assert_eq!(verdict(&[]), Err(Malformed::Version));
    let no_time = DecryptionErrorMessage { timestamp: None, ..decryption_error() }.encode_to_vec();
    assert_eq!(verdict(&plaintext_content(&content(&no_time))), Err(Malformed::Missing("timestamp")));
    let bad_key = DecryptionErrorMessage { ratchet_key: Some(b"hello".to_vec()), ..decryption_error() };
    let bad_key = plaintext_content(&content(&bad_key.encode_to_vec()));
    assert_eq!(verdict(&bad_key), Err(Malformed::BadField("ratchet_key")));
}

#[test]
fn an_opaque_body_has_28_bytes_or_more() {
    assert_eq!(check(EnvelopeType::Opaque, &[0; 27]), Err(Malformed::TooShort { at_least: 28 }));
    assert_eq!(check(EnvelopeType::Opaque, &[0; 28]), Ok(()));
}

#[test]
fn malformed_bodies_are_described_in_words() {
    let words = Malformed::BadField("ratchet_key").to_string();
    assert_eq!(words, "the field 'ratchet_key' of the body has the wrong type or length");
}

proptest! {
    #[test]
    fn random_bytes_never_panic_and_are_no_signal_message(
        body in proptest::collection::vec(any::<u8>(), 0..400),
        first in prop::sample::select(vec![0x11, 0x33, 0x34, 0x44, 0xc0]),
    ) {
        let body = [&[first][..], &body].concat();
        for envelope_type in TYPES {
            let verdict = check(envelope_type, &body);
            prop_assert!(verdict.is_err() || envelope_type == EnvelopeType::Opaque);
        }
    }

    #[test]
    fn altered_messages_never_panic(index in 0_usize..5000, byte in any::<u8>()) {
        let mut body = prekey_body(0x44, &prekey());
        let index = index % body.len();
        body[index] = byte;
        for envelope_type in TYPES {
            // Either verdict will do: many bytes are ciphertext.
            let _: Result<(), Malformed> = check(envelope_type, &body);
        }
    }

    #[test]
    fn random_bytes_of_a_ciphertexts_length_are_not_plaintext(
        body in proptest::collection::vec(any::<u8>(), 28..200),
    ) {
        // For a random body of 28 bytes the odds of being text are below 10^-10.
        prop_assert!(!is_plaintext(&body));
    }
}
