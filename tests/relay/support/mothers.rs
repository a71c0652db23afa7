//! Objects as a store gets them: well-formed, random, and not signed by anybody.

use std::time::Duration;

use bytes::Bytes;
use restante::{
    domain::{
        Addressed, Bodies, Caller, Conversation, ConversationId, DeviceId, DeviceName, Envelope,
        EnvelopeType, IdentityKey, KeyId, LinkedBy, MessageId, MessageType, OneTimePreKey, RegistrationId,
        Send, SessionId, SignedPreKey, Timestamp, UserId,
    },
    store::{LinkOffer, Login, NewSession, PackageUpload, Registration, Revival, Rotation, SingleUse},
};
use uuid::Uuid;

use super::engine::NOON;

pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::Rng::fill(&mut rand::rng(), bytes.as_mut_slice());
    bytes
}

pub(crate) fn user() -> UserId {
    UserId::new(Uuid::new_v4())
}

pub(crate) fn message_id() -> MessageId {
    MessageId::new(Uuid::new_v4())
}

pub(crate) fn device_id(name: &str) -> DeviceId {
    DeviceId::parse(name).unwrap()
}

pub(crate) fn onetime(id: i64) -> OneTimePreKey {
    OneTimePreKey { id: KeyId::new(id).unwrap(), public_key: Bytes::copy_from_slice(&bytes::<33>()) }
}

pub(crate) fn signed(id: i64) -> SignedPreKey {
    SignedPreKey {
        id: KeyId::new(id).unwrap(),
        public_key: Bytes::copy_from_slice(&bytes::<33>()),
        signature: bytes(),
    }
}

pub(crate) fn kem(id: i64) -> SignedPreKey {
    SignedPreKey { public_key: Bytes::copy_from_slice(&bytes::<1569>()), ..signed(id) }
}

/// A device with one-time pre-keys 1 to 5, KEM pre-keys 1 to 3 and a last-resort one, 100.
pub(crate) fn registration(user_id: UserId, device: &str) -> Registration {
    Registration {
        onetime_prekeys: (1..=5).map(onetime).collect(),
        kem_prekeys: (1..=3).map(kem).collect(),
        last_resort_kem_prekey: Some(kem(100)),
        ..bare_registration(user_id, device)
    }
}

/// A device with a signed pre-key and nothing else.
pub(crate) fn bare_registration(user_id: UserId, device: &str) -> Registration {
    Registration {
        mls_signature_keys: Vec::new(),
        packages: PackageUpload::default(),
        user_id,
        device_id: device_id(device),
        device_name: Some(format!("my {device}")),
        registration_id: RegistrationId::new(rand::random_range(1..=16383)).unwrap(),
        identity_key: IdentityKey::Signal(bytes()),
        signed_prekey: signed(1),
        onetime_prekeys: Vec::new(),
        kem_prekeys: Vec::new(),
        last_resort_kem_prekey: None,
        link_token_hash: None,
        may_claim: true,
        revival: None,
        session: session(NOON),
    }
}

/// A session whose refresh token ends in 7 days.
pub(crate) fn session(now: Timestamp) -> NewSession {
    NewSession {
        session_id: SessionId::new(Uuid::new_v4()),
        refresh_hash: bytes(),
        expires_at: now.plus(7 * DAY),
    }
}

/// Something that works once, within a minute.
pub(crate) fn single_use(now: Timestamp) -> SingleUse {
    SingleUse { hash: bytes(), expires_at: now.plus(Duration::from_mins(1)) }
}

/// A device that answered a challenge of its own.
pub(crate) fn login(device: &Caller, now: Timestamp) -> Login {
    Login { device_no: device.device_no, challenge: single_use(now), session: session(now) }
}

/// A refresh token of a session that comes, and a successor that ends in 7 days.
pub(crate) fn rotation(session_id: SessionId, presented: [u8; 32], now: Timestamp) -> Rotation {
    Rotation { session_id, presented, next: bytes(), expires_at: now.plus(7 * DAY) }
}

/// A registration of a user without devices, with what brings it back.
pub(crate) fn revived(user_id: UserId, device: &str, revival: Revival) -> Registration {
    Registration { revival: Some(revival), may_claim: false, ..registration(user_id, device) }
}

/// A registration and the offer that allows it.
pub(crate) struct LinkedRegistration {
    pub(crate) offer: LinkOffer,
    pub(crate) registration: Registration,
}

pub(crate) fn linked(by: &Caller, device: &str, now: Timestamp) -> LinkedRegistration {
    allowed_by(by, registration(by.user_id, device), now)
}

/// The offer that allows a registration.
pub(crate) fn allowed_by(by: &Caller, mut registration: Registration, now: Timestamp) -> LinkedRegistration {
    let token_hash = bytes();
    registration.link_token_hash = Some(token_hash);
    let offer = LinkOffer {
        user_id: by.user_id,
        by: by.device_no,
        device_id: registration.device_id.clone(),
        identity_key: registration.identity_key,
        linked_by: LinkedBy {
            device_id: by.device_id.clone(),
            identity_key: IdentityKey::Ed25519(bytes()),
            signature: bytes(),
        },
        token_hash,
        expires_at: now.plus(Duration::from_mins(10)),
    };
    LinkedRegistration { offer, registration }
}

pub(crate) fn envelope() -> Envelope {
    Envelope {
        envelope_type: EnvelopeType::Whisper,
        ciphertext: Bytes::copy_from_slice(&bytes::<64>()),
        ephemeral_key: Some(Bytes::copy_from_slice(&bytes::<32>())),
    }
}

/// The pair's own conversation, the same in both directions.
pub(crate) fn conversation(one: UserId, other: UserId) -> ConversationId {
    ConversationId::new(Uuid::from_u128(one.uuid().as_u128().wrapping_add(other.uuid().as_u128())))
}

/// One body for every device of `to`, for 30 days.
pub(crate) fn send(from: &Caller, to: UserId) -> Send {
    Send {
        sender: from.clone(),
        message_id: message_id(),
        digest: bytes(),
        recipient_id: to,
        conversation: Conversation::Own(conversation(from.user_id, to)),
        message_type: MessageType::Text,
        self_destructing: false,
        expires_at: NOON.plus(30 * DAY),
        bodies: Bodies::Same(envelope()),
    }
}

/// A body for each of these devices, named by their ids.
pub(crate) fn send_each(from: &Caller, to: UserId, devices: &[&Caller]) -> Send {
    let addressed = devices.iter().map(|device| to_device(DeviceName::Id(device.device_id.clone())));
    Send { bodies: Bodies::Each(addressed.collect()), ..send(from, to) }
}

pub(crate) fn to_device(device: DeviceName) -> Addressed {
    Addressed { device, registration_id: None, envelope: envelope() }
}

/// A send that erases itself after `life`.
pub(crate) fn fleeting(from: &Caller, to: UserId, now: Timestamp, life: Duration) -> Send {
    Send { self_destructing: true, expires_at: now.plus(life), ..send(from, to) }
}
