use uuid::Uuid;

use super::*;
use crate::domain::{Caller, ConversationKey, DeviceId, DeviceNumber, GroupId};

fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

fn change(by: u128, add: &[u128], remove: &[u128]) -> RosterChange {
    let users = |numbers: &[u128]| numbers.iter().map(|number| user(*number)).collect();
    RosterChange {
        group_id: GroupId::new(Uuid::nil()),
        by: Caller {
            user_id: user(by),
            device_id: DeviceId::parse("phone").unwrap(),
            device_number: DeviceNumber::new(1).unwrap(),
            device_no: DeviceNo(1),
        },
        add: users(add),
        remove: users(remove),
    }
}

const OWNER: u128 = 1;
const ADMIN: u128 = 2;
const ELDER: u128 = 3;
const YOUNGER: u128 = 4;
const STRANGER: u128 = 9;

/// The elder member joined before the admin.
fn plan(change: &RosterChange) -> Result<RosterPlan, RosterChanged> {
    let members =
        [(OWNER, Role::Owner), (ELDER, Role::Member), (ADMIN, Role::Admin), (YOUNGER, Role::Member)];
    RosterPlan::of(change, &members.map(|(number, role)| (user(number), role)))
}

#[test]
fn the_oldest_admin_inherits_else_the_oldest_member() {
    let (elder, younger) = ((user(ELDER), Role::Member), (user(YOUNGER), Role::Member));
    assert_eq!(heir([elder, (user(ADMIN), Role::Admin), (user(7), Role::Admin)]), Some(user(ADMIN)));
    assert_eq!(heir([elder, younger]), Some(user(ELDER)));
    assert_eq!(heir([]), None);
}

#[test]
fn a_roster_is_changed_by_whoever_may() {
    assert_eq!(plan(&change(STRANGER, &[], &[STRANGER])), Err(RosterChanged::NotMember));
    for refused in
        [change(ELDER, &[STRANGER], &[]), change(ELDER, &[], &[YOUNGER]), change(ADMIN, &[], &[OWNER])]
    {
        assert_eq!(plan(&refused), Err(RosterChanged::NotAllowed));
    }
    assert_eq!(plan(&change(ADMIN, &[], &[STRANGER])), Err(RosterChanged::Unknown));
    let left = plan(&change(ELDER, &[], &[ELDER])).unwrap();
    assert_eq!(left, RosterPlan { added: Vec::new(), removed: vec![user(ELDER)], heir: None });
}

#[test]
fn who_is_there_is_not_added_and_nobody_is_named_twice() {
    let plan = plan(&change(ADMIN, &[STRANGER, ELDER, STRANGER], &[YOUNGER, YOUNGER])).unwrap();
    assert_eq!(
        (plan.added.as_slice(), plan.removed.as_slice()),
        (&[user(STRANGER)][..], &[user(YOUNGER)][..])
    );
}

#[test]
fn an_owner_who_leaves_hands_over_to_somebody_who_stays() {
    assert_eq!(plan(&change(OWNER, &[], &[OWNER])).unwrap().heir, Some(user(ADMIN)));
    assert_eq!(plan(&change(OWNER, &[], &[OWNER, ADMIN])).unwrap().heir, Some(user(ELDER)));
    let all = plan(&change(OWNER, &[], &[OWNER, ADMIN, ELDER, YOUNGER])).unwrap();
    assert_eq!(all.heir, None);
}

#[test]
fn a_proposal_that_waits_is_skipped_and_another_about_its_target_refused() {
    let proposal =
        |digest: u8, target: Option<i64>| Proposal { digest: [digest; 32], target: target.map(DeviceNo) };
    let wait = |position, proposal| Waiting { position: Position(position), proposal };
    let waiting = [wait(4, proposal(1, None)), wait(7, proposal(2, Some(5)))];
    let known = [proposal(2, Some(5)), proposal(1, None)];
    assert_eq!(repeated(&known, &waiting), Some(Position(7)));
    assert_eq!(repeated(&[known[0], proposal(3, None)], &waiting), None);
    assert_eq!(fresh_proposals(&[known[0], proposal(3, None), proposal(3, None)], &waiting, 2), Ok(vec![1]));
    assert_eq!(
        fresh_proposals(&[proposal(3, None), proposal(4, Some(5))], &waiting, 2),
        Err(Proposed::Exists(1))
    );
    let twice = [proposal(3, Some(6)), proposal(4, Some(6))];
    assert_eq!(fresh_proposals(&twice, &waiting, 2), Err(Proposed::Exists(1)));
    assert_eq!(fresh_proposals(&[proposal(3, None)], &waiting, MOST_PROPOSALS), Err(Proposed::TooMany));
    assert_eq!(fresh_proposals(&known, &waiting, MOST_PROPOSALS), Ok(Vec::new()));
}

#[test]
fn the_id_of_a_pairs_own_conversation_is_known() {
    let own = ConversationKey::new([1; 32]).of(user(OWNER), user(ADMIN));
    assert!(is_of_a_pair(GroupId::new(own.uuid())));
    for other in [Uuid::new_v4(), Uuid::now_v7(), Uuid::nil(), Uuid::max()] {
        assert!(!is_of_a_pair(GroupId::new(other)));
    }
}
