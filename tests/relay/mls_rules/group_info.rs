//! The `GroupInfo` that comes with a commit, which proves its confirmation tag.

use bytes::Bytes;
use restante::{
    domain::ExternalJoin,
    groups::mls::{GroupInfoFault, Refusal},
};

use super::{
    commits::{ADMIN, MEMBER, OWNER, Three, three},
    device::{Manner, bytes},
    world::Sent,
};

fn with(three: &mut Three, group_info: Bytes) -> Refusal {
    let sent = Sent { group_info, ..three.update(MEMBER) };
    three.sessions[MEMBER].clear_pending_commit();
    three.refusal(MEMBER, &sent)
}

#[test]
fn every_flipped_byte_of_a_group_info_is_refused() {
    let mut three = three(Manner::default());
    let sent = three.update(MEMBER);
    for at in 0..sent.group_info.len() {
        for bit in [1, 0x80] {
            let mut altered = sent.group_info.to_vec();
            altered[at] ^= bit;
            let altered = Sent { group_info: altered.into(), ..sent.clone() };
            let verdict = three.world.judge(&three.devices[MEMBER], &altered);
            assert!(matches!(verdict, Err(Refusal::BadGroupInfo(_))), "byte {at}");
        }
    }
    assert!(three.world.judge(&three.devices[MEMBER], &sent).is_ok());
}

#[test]
fn it_is_of_this_group_and_of_the_epoch_that_the_commit_opens() {
    let mut three = three(Manner::default());
    let current = three.world.group_info.clone();
    assert_eq!(with(&mut three, current), GroupInfoFault::WrongEpoch.into());
    let mut other = super::commits::three(Manner::default());
    let foreign = other.update(OWNER).group_info;
    assert_eq!(with(&mut three, foreign), GroupInfoFault::WrongGroup.into());
    let commit = three.update(ADMIN).commit;
    assert_eq!(with(&mut three, commit), GroupInfoFault::Malformed.into());
    assert_eq!(with(&mut three, Bytes::new()), GroupInfoFault::Malformed.into());
}

#[test]
fn it_is_of_this_very_commit_and_signed_by_its_committer() {
    let mut three = three(Manner::default());
    let first = three.update(MEMBER);
    three.sessions[MEMBER].clear_pending_commit();
    let second = three.update(MEMBER);
    let mixed = Sent { group_info: first.group_info.clone(), ..second.clone() };
    assert_eq!(three.refusal(MEMBER, &mixed), GroupInfoFault::NotOfCommit.into());

    // Another member follows, and signs the same epoch.
    three.accept(MEMBER, &second);
    let by_other = bytes(&three.sessions[ADMIN].group_info_message_allowing_ext_commit(false).unwrap());
    let mut again = super::commits::three(Manner::default());
    let sent = again.update(MEMBER);
    again.follow(MEMBER, &sent);
    let by_admin = bytes(&again.sessions[ADMIN].group_info_message_allowing_ext_commit(false).unwrap());
    let mixed = Sent { group_info: by_admin, ..sent.clone() };
    assert_eq!(again.refusal(MEMBER, &mixed), GroupInfoFault::NotOfCommit.into(), "another signer");
    assert!(again.world.judge(&again.devices[MEMBER], &sent).is_ok());
    assert!(by_other != second.group_info);
}

#[test]
fn external_pub_is_needed_exactly_where_devices_may_come_in() {
    for external_join in
        [ExternalJoin::None, ExternalJoin::Resync, ExternalJoin::Siblings, ExternalJoin::Token]
    {
        let mut three = three(Manner { external_join, ..Manner::default() });
        let sent = three.update(MEMBER);
        three.sessions[MEMBER].apply_pending_commit().unwrap();
        let bare = bytes(&three.sessions[MEMBER].group_info_message(false).unwrap());
        let bare = Sent { group_info: bare, ..sent.clone() };
        let verdict = three.world.judge(&three.devices[MEMBER], &bare).map(|_| ());
        let expected = match external_join {
            ExternalJoin::None => Ok(()),
            ExternalJoin::Resync | ExternalJoin::Siblings | ExternalJoin::Token => {
                Err(GroupInfoFault::NoExternalPub.into())
            }
        };
        assert_eq!(verdict, expected, "{external_join:?}");
        assert!(three.world.judge(&three.devices[MEMBER], &sent).is_ok());
    }
}

#[test]
fn a_tree_in_it_is_the_tree_that_the_commit_leads_to() {
    let mut three = three(Manner::default());
    let sent = three.update(MEMBER);
    let old = three.world.tree.clone();
    three.sessions[MEMBER].apply_pending_commit().unwrap();
    let session = &three.sessions[MEMBER];
    let right = bytes(&session.group_info_message_allowing_ext_commit(true).unwrap());
    let right = Sent { group_info: right, ..sent.clone() };
    assert!(three.world.judge(&three.devices[MEMBER], &right).is_ok());

    // A committer that signs another tree into it.
    let mut extensions = mls_rs::ExtensionList::default();
    extensions.set(mls_rs::Extension::new(mls_rs::extension::ExtensionType::new(2), old.to_vec()));
    let wrong = session.group_info_message_allowing_ext_commit_with_extensions(false, extensions).unwrap();
    let wrong = Sent { group_info: bytes(&wrong), ..sent.clone() };
    assert_eq!(three.refusal(MEMBER, &wrong), GroupInfoFault::Tree.into());
}
