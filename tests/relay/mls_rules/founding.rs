//! New groups.

use std::time::Duration;

use bytes::Bytes;
use mls_rs::{Extension, ExtensionList, extension::ExtensionType};
use restante::{
    domain::{CipherSuite, ExternalJoin, Handshake, Timestamp},
    groups::mls::{FoundingRules, GroupInfoFault, Refusal, found, found_private},
};

use super::{
    commits::{OWNER, three, user},
    device::{Calls, Device, Manner, bytes},
    world::{Sent, World, create, new_group_id, now, rules},
};

/// A founder, its `GroupInfo` with the tree in it, and the rules it keeps.
fn founding(manner: Manner) -> (Device, Bytes, FoundingRules<'static>) {
    let device = Device::new(user(1), "desk", manner);
    let rules = rules(new_group_id(), manner);
    let session = create(&device, rules.group_id, ExtensionList::default());
    let group_info = bytes(&session.group_info_message_allowing_ext_commit(true).unwrap());
    (device, group_info, rules)
}

fn verdict(rules: &FoundingRules<'_>, device: &Device, group_info: &Bytes) -> Result<(), Refusal> {
    found(rules, &device.sender(), group_info, None).map(|_| ())
}

#[test]
fn a_tree_comes_in_the_group_info_or_beside_it() {
    let (device, _, rules) = founding(Manner::default());
    let session = create(&device, rules.group_id, ExtensionList::default());
    let bare = bytes(&session.group_info_message_allowing_ext_commit(false).unwrap());
    let full = bytes(&session.group_info_message_allowing_ext_commit(true).unwrap());
    let tree = Bytes::from(session.export_tree().to_bytes().unwrap());
    let other = create(&device, rules.group_id, ExtensionList::default());
    let other = Bytes::from(other.export_tree().to_bytes().unwrap());
    let garbage = Bytes::from_static(b"no");
    let found =
        |group_info, tree| found(&rules, &device.sender(), group_info, tree).map(|founded| founded.first);

    for (group_info, tree) in [(&bare, Some(&tree)), (&full, None), (&full, Some(&tree))] {
        let first = found(group_info, tree).unwrap_or_else(|refusal| panic!("{refusal}"));
        assert_eq!(first.tree.as_deref(), Some(&session.export_tree().to_bytes().unwrap()[..]));
    }
    assert_eq!(found(&bare, None).err(), Some(GroupInfoFault::NoTree.into()));
    for group_info in [&bare, &full] {
        assert_eq!(found(group_info, Some(&other)).err(), Some(GroupInfoFault::Tree.into()));
        assert_eq!(found(group_info, Some(&garbage)).err(), Some(GroupInfoFault::Tree.into()));
    }
}

#[test]
fn a_new_group_has_its_id_its_suite_and_external_pub_where_it_is_needed() {
    for handshake in [Handshake::Public, Handshake::Private] {
        let (device, group_info, rules) = founding(Manner { handshake, ..Manner::default() });
        let verdict = |rules: &FoundingRules<'_>, group_info: &Bytes| match handshake {
            Handshake::Private => found_private(rules, &device.sender(), group_info).map(|_| ()),
            Handshake::Public | Handshake::None => verdict(rules, &device, group_info),
        };
        assert_eq!(verdict(&rules, &group_info), Ok(()));
        let other = FoundingRules { group_id: new_group_id(), ..rules };
        assert_eq!(verdict(&other, &group_info), Err(GroupInfoFault::WrongGroup.into()));
        let few = FoundingRules { cipher_suites: &[CipherSuite::P256Aes128], ..rules };
        assert_eq!(verdict(&few, &group_info), Err(GroupInfoFault::CipherSuite.into()));
        let session = create(&device, rules.group_id, ExtensionList::default());
        let bare = bytes(&session.group_info_message(true).unwrap());
        assert_eq!(verdict(&rules, &bare), Err(GroupInfoFault::NoExternalPub.into()));
        let closed = FoundingRules { external_join: ExternalJoin::None, ..rules };
        assert_eq!(verdict(&closed, &bare), Ok(()));
        for at in (0..group_info.len()).step_by(5) {
            let mut altered = group_info.to_vec();
            altered[at] ^= 4;
            assert!(verdict(&rules, &altered.into()).is_err(), "byte {at}");
        }
    }
}

#[test]
fn the_founder_is_the_caller_with_its_registered_key() {
    let (mut device, group_info, rules) = founding(Manner::default());
    let other = Device::new(user(2), "desk", Manner::default());
    let as_other = Device { keys: device.keys.clone(), ..other };
    assert_eq!(verdict(&rules, &as_other, &group_info), Err(GroupInfoFault::Identity.into()));
    device.keys.clear();
    assert_eq!(verdict(&rules, &device, &group_info), Err(GroupInfoFault::UnregisteredKey.into()));
    let found = found_private(&rules, &device.sender(), &group_info).err();
    assert_eq!(found, Some(GroupInfoFault::UnregisteredKey.into()));
}

#[test]
fn a_leaf_that_lives_too_long_or_has_ended_founds_nothing() {
    let day = Duration::from_hours(24);
    let (device, group_info, rules) = founding(Manner { lifetime: day * 92, ..Manner::default() });
    assert_eq!(verdict(&rules, &device, &group_info), Err(GroupInfoFault::Lifetime.into()));
    let longer = FoundingRules { longest_lifetime: day * 100, ..rules };
    assert_eq!(verdict(&longer, &device, &group_info), Ok(()));
    let later = FoundingRules { now: now().plus(day * 93), ..longer };
    assert_eq!(verdict(&later, &device, &group_info), Err(GroupInfoFault::Lifetime.into()));
    let before = FoundingRules { now: Timestamp::from_millis(0), ..rules };
    assert_eq!(verdict(&before, &device, &group_info), Err(GroupInfoFault::Lifetime.into()));
}

#[test]
fn a_group_that_has_moved_on_is_not_new() {
    let mut three = three(Manner::default());
    let sent = three.update(OWNER);
    three.accept(OWNER, &sent);
    let rules = rules(three.world.group_id, three.world.manner);
    let group_info = bytes(&three.sessions[OWNER].group_info_message_allowing_ext_commit(true).unwrap());
    assert_eq!(verdict(&rules, &three.devices[OWNER], &group_info), Err(GroupInfoFault::WrongEpoch.into()));
}

#[test]
fn only_extensions_of_the_allow_list_stand_in_the_group_context() {
    let device = Device::new(user(1), "desk", Manner::default());
    let rules = rules(new_group_id(), Manner::default());
    for (kind, allowed) in [(0xf001, true), (0x1234, false)] {
        let mut context = ExtensionList::default();
        context.set(Extension::new(ExtensionType::new(kind), vec![1]));
        let session = match device.client.create_group_with_id(
            rules.group_id.uuid().as_bytes().to_vec(),
            context,
            ExtensionList::default(),
            None,
        ) {
            Ok(session) => session,
            // mls-rs makes none that its own leaf does not support.
            Err(_) if !allowed => continue,
            Err(error) => panic!("{error}"),
        };
        let group_info = bytes(&session.group_info_message_allowing_ext_commit(true).unwrap());
        assert_eq!(verdict(&rules, &device, &group_info).is_ok(), allowed);
    }
    let mut context = ExtensionList::default();
    let senders = mls_rs::extension::built_in::ExternalSendersExt::new(vec![device.leaf.identity.clone()]);
    context.set_from(senders).unwrap();
    let session = create(&device, rules.group_id, context);
    let group_info = bytes(&session.group_info_message_allowing_ext_commit(true).unwrap());
    assert_eq!(verdict(&rules, &device, &group_info), Err(GroupInfoFault::Extension.into()));
}

#[test]
fn a_group_is_made_and_filled_in_one_call() {
    let manner = Manner::default();
    let device = Device::new(user(1), "desk", manner);
    let (mut world, mut session) = World::found(&device, manner);
    let others = [Device::new(user(2), "a", manner), Device::new(user(3), "b", manner)];
    let mut builder = session.commit_builder();
    for other in &others {
        builder = builder.add_member(world.claim(other)).unwrap();
    }
    let judged = world.accept(&device, &Sent::from(&builder.build().unwrap()));
    assert_eq!(judged.next.epoch.0, 1);
    assert_eq!(
        judged.joiners.iter().map(|joining| joining.leaf_index).collect::<Vec<_>>(),
        [Some(1), Some(2)]
    );
}
