//! A group of real clients (mls-rs), and what they send in its epoch 1.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use mls_rs::{
    ExtensionList, MlsMessage,
    group::{CommitOutput, ExportedTree},
};
use uuid::Uuid;

use super::device::{Device, Manner, Session, bytes, self_remove};
use crate::{
    domain::{CipherSuite, Epoch, ExternalJoin, GroupId, KeyPackageRef},
    fuzzed::{NOW, caller, user},
    groups::mls::{
        CommitBundle, FoundingRules, GroupAt, KnownPackage, Sender, Welcome, found, founder, judge_commit,
    },
};

/// Names of the devices, as [`crate::fuzzed::World`] knows them.
const NAMES: [&str; 4] = ["desk", "phone", "tablet", "watch"];
const GROUP: GroupId = GroupId::new(Uuid::from_u128(0x0bad_cafe));

/// Seeds outlive the machines that they are replayed on.
pub(super) const LIFE: Duration = Duration::from_hours(24 * 366 * 100);

fn manner() -> Manner {
    Manner { external_join: ExternalJoin::Token, lifetime: LIFE, ..Manner::default() }
}

/// The world's file, and messages by name.
pub(super) fn made() -> (String, Vec<(&'static str, Vec<u8>)>) {
    let devices = [0, 1, 2, 3].map(|index: u8| {
        let name = NAMES[usize::from(index)];
        Device::new(user(index + 1), name, manner())
    });
    let mut owner = devices[0]
        .client
        .create_group_with_id(
            GROUP.uuid().as_bytes().to_vec(),
            ExtensionList::default(),
            ExtensionList::default(),
            None,
        )
        .unwrap();
    let first = bytes(&owner.group_info_message_allowing_ext_commit(true).unwrap());
    let tree = Bytes::from(owner.export_tree().to_bytes().unwrap());
    let mut seeds = vec![("group-info", input(&[&first, &tree]))];

    let (state, info, mut sessions) = fill(&devices, &mut owner, &first, &tree);
    let mut lines: Vec<Bytes> = vec![Bytes::copy_from_slice(GROUP.uuid().as_bytes()), state, info.clone()];
    lines.extend(devices.iter().map(|device| device.keys[0].public_key.clone()));
    let world: String = lines.iter().map(|line| STANDARD.encode(line) + "\n").collect();

    commits(&devices, &mut owner, &mut sessions, &mut seeds);
    proposals(&devices, &mut sessions, &mut seeds);
    seeds.push(("external-commit", external(&devices[3], &info, &owner.export_tree())));
    (world, seeds)
}

/// Vectors, as [`crate::fuzzed::mls_message`] reads them.
fn input(parts: &[&[u8]]) -> Vec<u8> {
    use mls_rs::mls_rs_codec::MlsEncode as _;

    parts.iter().flat_map(|part| part.to_vec().mls_encode_to_vec().unwrap()).collect()
}

/// A commit with all that comes with it.
fn whole(output: &CommitOutput) -> Vec<u8> {
    let info = bytes(output.external_commit_group_info().unwrap());
    let welcome = output.welcome_messages().first().map(bytes).unwrap_or_default();
    input(&[&bytes(output.commit_message()), &info, &welcome])
}

/// The owner adds the admin and the member: the state and the `GroupInfo` of epoch 1, and their sessions.
fn fill(
    devices: &[Device; 4],
    owner: &mut Session,
    first: &Bytes,
    tree: &Bytes,
) -> (Bytes, Bytes, [Session; 2]) {
    let founding = caller(1, NAMES[0]);
    let sender = Sender { caller: &founding, keys: &devices[0].keys, join_token: false };
    let rules = FoundingRules {
        group_id: GROUP,
        external_join: ExternalJoin::Token,
        cipher_suites: &[CipherSuite::X25519Aes128],
        longest_lifetime: LIFE * 2,
        now: NOW,
    };
    let founded = found(&rules, &sender, first, Some(tree)).unwrap();
    let packages = [1, 2].map(|index: usize| devices[index].package());
    let mut builder = owner.commit_builder();
    for package in &packages {
        builder = builder.add_member(package.clone()).unwrap();
    }
    let output = builder.build().unwrap();
    let [commit, info] = [output.commit_message(), output.external_commit_group_info().unwrap()].map(bytes);
    let welcome = bytes(&output.welcome_messages()[0]);
    let known: Vec<_> = (1..).zip(&packages).map(|(index, package)| known(index, package)).collect();
    let members = [founder(&founding, NOW)];
    let at = GroupAt {
        group_id: GROUP,
        epoch: Epoch(0),
        cipher_suite: CipherSuite::X25519Aes128,
        external_join: ExternalJoin::Token,
        members: &members,
    };
    let bundle = CommitBundle { commit: &commit, group_info: &info, welcome: Some(&welcome) };
    let judged = judge_commit(&at, &founded.first.state.unwrap(), &[], &sender, &bundle, &known).unwrap();
    owner.apply_pending_commit().unwrap();
    let join = |index: usize| {
        let welcome = MlsMessage::from_bytes(&welcome).unwrap();
        devices[index].client.join_group(Some(owner.export_tree()), &welcome, None).unwrap().0
    };
    (judged.next.state.unwrap(), info, [join(1), join(2)])
}

fn known(index: u8, package: &MlsMessage) -> KnownPackage {
    use mls_rs::CryptoProvider as _;

    let provider = mls_rs_crypto_rustcrypto::RustCryptoProvider::new();
    let suite = provider.cipher_suite_provider(manner().mls_suite()).unwrap();
    let reference = package.key_package_reference(&suite).unwrap().unwrap();
    let reference: &[u8] = reference.as_ref();
    KnownPackage {
        reference: KeyPackageRef(reference.try_into().unwrap()),
        owner: caller(index + 1, NAMES[usize::from(index)]),
        active: true,
        cipher_suite: CipherSuite::X25519Aes128,
        usable: true,
    }
}

fn commits(
    devices: &[Device; 4],
    owner: &mut Session,
    [admin, member]: &mut [Session; 2],
    seeds: &mut Vec<(&'static str, Vec<u8>)>,
) {
    let update = member.commit_builder().build().unwrap();
    seeds.push(("commit-update", whole(&update)));
    member.clear_pending_commit();

    let add = admin.commit_builder().add_member(devices[3].package()).unwrap().build().unwrap();
    seeds.push(("commit-add", whole(&add)));
    seeds.push(("welcome", input(&[&bytes(&add.welcome_messages()[0])])));
    admin.clear_pending_commit();

    let remove = owner.commit_builder().remove_member(2).unwrap().build().unwrap();
    seeds.push(("commit-remove", whole(&remove)));
    owner.clear_pending_commit();

    // In the head of a private message stands all that the relay reads of it.
    let next = admin.commit_builder().build().unwrap();
    let info = bytes(next.external_commit_group_info().unwrap());
    admin.clear_pending_commit();
    for (name, content_type) in [("private-application", 1), ("private-proposal", 2), ("private-commit", 3)] {
        let mut message = vec![0, 1, 0, 2, 16];
        message.extend(GROUP.uuid().as_bytes());
        message.extend(1_u64.to_be_bytes());
        message.extend([content_type, 0, 2, 0x80, 0x81, 3, 0x82, 0x83, 0x84]);
        seeds.push((name, input(&[&message, &info])));
    }
}

fn proposals(
    devices: &[Device; 4],
    [admin, member]: &mut [Session; 2],
    seeds: &mut Vec<(&'static str, Vec<u8>)>,
) {
    let add = admin.propose_add(devices[3].package(), Vec::new()).unwrap();
    let remove = admin.propose_remove(2, Vec::new()).unwrap();
    let update = member.propose_update(Vec::new()).unwrap();
    for (name, message) in [("proposal-add", add), ("proposal-remove", remove), ("proposal-update", update)] {
        seeds.push((name, input(&[&bytes(&message)])));
    }
    seeds.push(("proposal-self-remove", input(&[&self_remove(&devices[2], member)])));
}

fn external(device: &Device, info: &Bytes, tree: &ExportedTree<'_>) -> Vec<u8> {
    let builder = device.client.external_commit_builder().unwrap();
    let info = MlsMessage::from_bytes(info).unwrap();
    let (session, commit) = builder.with_tree_data(tree.clone().into_owned()).build(info).unwrap();
    let next = session.group_info_message_allowing_ext_commit(false).unwrap();
    assert!(Welcome::parse(&bytes(&commit)).is_err());
    input(&[&bytes(&commit), &bytes(&next)])
}
