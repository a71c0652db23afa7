//! Groups, key packages and commits as a store gets them: random bytes stand where MLS would, of which it knows nothing.

use std::time::Duration;

use bytes::Bytes;
use restante::{
    domain::{
        Caller, CipherSuite, DeviceNo, Epoch, ExternalJoin, GroupId, GroupSend, Handshake, InviteId,
        KeyPackage, KeyPackageRef, MessageType, MlsSignatureKey, SignatureScheme, Timestamp, UserId,
    },
    store::{
        Commit, EpochState, Founding, Invite, MlsFounding, NewGroup, NewProposal, PackageUpload,
        Registration, Report,
    },
};
use uuid::Uuid;

use super::{
    engine::NOON,
    mothers::{self, DAY},
};

/// The suite of every group and package that names no other.
pub(crate) const SUITE: CipherSuite = CipherSuite::X25519Aes128;

/// Bytes that nothing else has.
pub(crate) fn body() -> Bytes {
    Bytes::copy_from_slice(&mothers::bytes::<48>())
}

pub(crate) fn group_id() -> GroupId {
    GroupId::new(Uuid::new_v4())
}

pub(crate) fn digest(bytes: &[u8]) -> [u8; 32] {
    *blake3::hash(bytes).as_bytes()
}

pub(crate) fn signature_key(scheme: SignatureScheme) -> MlsSignatureKey {
    let public_key = match scheme {
        SignatureScheme::Ed25519 => Bytes::copy_from_slice(&mothers::bytes::<32>()),
        SignatureScheme::EcdsaP256 => Bytes::copy_from_slice(&mothers::bytes::<65>()),
    };
    MlsSignatureKey { scheme, public_key, signature: mothers::bytes() }
}

/// A package that ends in 90 days. Its body begins with its reference, so that it is known when it is handed out.
pub(crate) fn package(key: &MlsSignatureKey, cipher_suite: CipherSuite) -> KeyPackage {
    let reference = mothers::bytes::<32>();
    KeyPackage {
        reference: KeyPackageRef(reference),
        cipher_suite,
        signature_key: key.public_key.clone(),
        init_key_digest: mothers::bytes(),
        not_after: NOON.plus(90 * DAY),
        body: Bytes::from([&reference[..], &mothers::bytes::<16>()].concat()),
    }
}

/// The reference of a package that was handed out.
pub(crate) fn reference_of(package: &Bytes) -> KeyPackageRef {
    KeyPackageRef(package[..32].try_into().unwrap())
}

pub(crate) fn packages(key: &MlsSignatureKey, number: usize) -> Vec<KeyPackage> {
    (0..number).map(|_| package(key, SUITE)).collect()
}

/// One-time packages and nothing else.
pub(crate) fn one_time(packages: &[KeyPackage]) -> PackageUpload {
    PackageUpload { packages: packages.to_vec(), last_resort: None }
}

/// A last-resort package and nothing else.
pub(crate) fn last_resort(package: &KeyPackage) -> PackageUpload {
    PackageUpload { packages: Vec::new(), last_resort: Some(package.clone()) }
}

/// A device with an Ed25519 key, three packages of its suite and a last-resort one.
pub(crate) fn registration(user_id: UserId, device: &str) -> Registration {
    let key = signature_key(SignatureScheme::Ed25519);
    Registration {
        packages: PackageUpload { packages: packages(&key, 3), last_resort: Some(package(&key, SUITE)) },
        mls_signature_keys: vec![key],
        ..mothers::bare_registration(user_id, device)
    }
}

pub(crate) fn commit() -> Commit {
    let body = body();
    Commit { digest: digest(&body), body }
}

pub(crate) fn epoch_state() -> EpochState {
    EpochState { state: Some(body()), group_info: body(), tree: Some(body()) }
}

/// A roster group with these further members.
pub(crate) fn roster(by: &Caller, members: &[UserId]) -> NewGroup {
    NewGroup {
        group_id: group_id(),
        digest: mothers::bytes(),
        by: by.clone(),
        name: Some("sealed name".to_owned()),
        description: None,
        handshake: Handshake::None,
        external_join: ExternalJoin::None,
        founding: Founding::Roster(members.to_vec()),
    }
}

/// An MLS group with public handshakes and one leaf.
pub(crate) fn group(by: &Caller) -> NewGroup {
    founded(
        by,
        MlsFounding { cipher_suite: SUITE, commit: None, joiners: Vec::new(), epoch_state: epoch_state() },
    )
}

/// An MLS group that is filled by a commit in the same act.
pub(crate) fn filled(by: &Caller, joiners: Vec<restante::store::Joiner>) -> NewGroup {
    founded(
        by,
        MlsFounding { cipher_suite: SUITE, commit: Some(commit()), joiners, epoch_state: epoch_state() },
    )
}

fn founded(by: &Caller, founding: MlsFounding) -> NewGroup {
    NewGroup {
        handshake: Handshake::Public,
        external_join: ExternalJoin::Token,
        founding: Founding::Mls(Box::new(founding)),
        ..roster(by, &[])
    }
}

/// A proposal about a device, or about none, by which nobody leaves.
pub(crate) fn proposal(target: Option<DeviceNo>) -> NewProposal {
    NewProposal { body: body(), target, leaves: false }
}

/// A proposal by which a device leaves.
pub(crate) fn leave(target: &Caller) -> NewProposal {
    NewProposal { leaves: true, ..proposal(Some(target.device_no)) }
}

/// A message for a group: of this epoch, or opaque.
pub(crate) fn send(from: &Caller, group_id: GroupId, epoch: Option<Epoch>) -> GroupSend {
    GroupSend {
        sender: from.clone(),
        group_id,
        message_id: mothers::message_id(),
        digest: mothers::bytes(),
        epoch,
        message_type: MessageType::Text,
        expires_at: None,
        body: body(),
    }
}

pub(crate) fn invite(now: Timestamp, life: Duration) -> Invite {
    Invite { invite_id: InviteId::new(Uuid::new_v4()), created_at: now, expires_at: now.plus(life) }
}

pub(crate) fn report(by: &Caller, group_id: GroupId, epoch: Epoch, commit: [u8; 32]) -> Report {
    Report { group_id, by: by.clone(), epoch, commit, reason: "the tag does not fit".to_owned() }
}
