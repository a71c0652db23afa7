//! How groups are made: at once, or not at all.

use bytes::Bytes;
use restante::{
    domain::{
        Conversation, ConversationId, ConversationKey, EntryKind, Epoch, ExternalJoin, GroupId, Handshake,
        Position, Role, Send,
    },
    store::{Accepted, CannotAdd, Founding, GroupCreated, Joiner, MlsFounding, NewGroup, StoredCommit},
};
use uuid::Uuid;

use crate::support::{
    engine::{Engine, on_both_engines},
    group_acts::Gate,
    mls_mothers::{self as mls, SUITE},
    mothers,
};

on_both_engines!(roomy =>
    no_group_has_an_id_like_those_of_pairs,
    a_roster_group_is_there_with_a_window_for_every_device_of_its_members,
    an_mls_group_begins_with_its_founder_alone,
    a_group_may_be_filled_in_the_act_that_makes_it,
    a_repeat_finds_the_group_as_it_is_now,
    an_id_of_another_group_is_refused,
    group_ids_and_conversation_ids_never_collide,
    a_founder_that_is_gone_makes_no_group,
    a_group_with_somebody_who_cannot_be_added_is_not_made,
    a_private_group_knows_neither_leaves_nor_trees,
    what_a_founding_emits_is_what_lies_in_the_mailboxes,
);

async fn a_roster_group_is_there_with_a_window_for_every_device_of_its_members(engine: Engine) {
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let (laptop, tablet) = (engine.link(&alice, "laptop").await, engine.link(&bob, "tablet").await);
    let stranger = engine.newcomer().await;
    let new = NewGroup { description: Some("sealed".to_owned()), ..mls::roster(&alice, &[bob.user_id]) };
    let group = engine.created(new.clone()).await;
    assert_eq!((group.group_id, group.name.as_ref()), (new.group_id, new.name.as_ref()));
    assert_eq!(group.description, new.description);
    assert_eq!((group.created_by, group.created_at, group.member_count), (alice.user_id, engine.now(), 2));
    assert_eq!((group.handshake, group.external_join), (Handshake::None, ExternalJoin::None));
    assert_eq!((group.cipher_suite, group.generation, group.epoch), (None, 0, Epoch(0)));
    assert_eq!((group.head, group.rolled_back), (Position(0), false));
    assert!(engine.log(group.group_id).await.is_empty());

    for device in [&alice, &laptop, &bob, &tablet] {
        let window = engine.window(device, group.group_id).await;
        assert_eq!((window.opened_after, window.closed_at, window.cursor), (Position(0), None, Position(0)));
        assert_eq!(engine.gate(device, &window).await, Gate::Joined(group.group_id));
        let standing = engine.standing(group.group_id, device).await;
        assert_eq!((&standing.group, standing.window, standing.leaf), (&group, Some(window), None));
        assert!(standing.may_write());
        let role = if device.user_id == alice.user_id { Role::Owner } else { Role::Member };
        assert_eq!(standing.role, Some(role));
    }
    let standing = engine.standing(group.group_id, &stranger).await;
    assert_eq!((standing.role, standing.window, standing.may_write()), (None, None, false));
    let members = engine.members(group.group_id).await;
    assert_eq!(
        members.iter().map(|member| (member.user_id, member.role, member.invited)).collect::<Vec<_>>(),
        [(alice.user_id, Role::Owner, false), (bob.user_id, Role::Member, true)],
        "the further members were added without their doing"
    );
    let devices: Vec<_> =
        members[1].devices.iter().map(|it| (it.device_no, it.leaf_index, it.active)).collect();
    assert_eq!(devices, [(bob.device_no, None, true), (tablet.device_no, None, true)]);
    assert!(engine.store.handshake_state(group.group_id).await.unwrap().is_none(), "it is no MLS group");
}

async fn an_mls_group_begins_with_its_founder_alone(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let laptop = engine.mls_link(&alice, "laptop").await;
    let new = mls::group(&alice);
    let group = engine.created(new.clone()).await;
    assert_eq!((group.epoch, group.oldest_epoch, group.head), (Epoch(0), Epoch(0), Position(0)));
    assert_eq!((group.cipher_suite, group.member_count), (Some(SUITE), 1));
    assert_eq!((group.handshake, group.external_join), (Handshake::Public, ExternalJoin::Token));
    let window = engine.window(&alice, group.group_id).await;
    assert_eq!((window.opened_after, window.closed_at, window.joined_epoch), (Position(0), None, Epoch(0)));
    assert_eq!(engine.gate(&alice, &window).await, Gate::Joined(group.group_id));
    assert!(engine.windows_in(&laptop, group.group_id).await.is_empty(), "it has no leaf");
    let standing = engine.standing(group.group_id, &alice).await;
    assert_eq!((standing.leaf, standing.reports), (Some(Some(0)), 0));
    let sibling = engine.standing(group.group_id, &laptop).await;
    assert_eq!((sibling.role, sibling.leaf, sibling.may_write()), (Some(Role::Owner), None, false));

    let Founding::Mls(founding) = new.founding else { panic!("it is an MLS group") };
    let state = founding.epoch_state.state.clone().unwrap();
    let judged = engine.store.handshake_state(group.group_id).await.unwrap().unwrap();
    assert_eq!((judged.version, judged.generation, judged.epoch), (standing.version, 0, Epoch(0)));
    assert_eq!(judged.state_digest, Some(mls::digest(&state)));
    assert_eq!(judged.group_info, founding.epoch_state.group_info);
    assert!(judged.proposals.is_empty());
    assert_eq!(judged.members, engine.members(group.group_id).await);
    let stored = async |digest| engine.store.group_state(group.group_id, digest).await.unwrap();
    assert_eq!(stored(mls::digest(&state)).await, Some(state));
    assert_eq!(stored(mothers::bytes()).await, None);
    let tree = engine.store.ratchet_tree(group.group_id, 0, Epoch(0)).await.unwrap();
    assert_eq!(tree, founding.epoch_state.tree);
}

async fn a_group_may_be_filled_in_the_act_that_makes_it(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let (laptop, tablet) = (engine.mls_link(&alice, "laptop").await, engine.mls_link(&bob, "tablet").await);
    let joiners = engine.joiners(1, &[&bob, &laptop, &tablet]).await;
    let new = mls::filled(&alice, joiners.clone());
    let group = engine.created(new.clone()).await;
    assert_eq!((group.epoch, group.head, group.member_count), (Epoch(1), Position(1), 2));
    let Founding::Mls(founding) = new.founding else { panic!("it is an MLS group") };
    let commit = founding.commit.unwrap();
    let log = engine.log(group.group_id).await;
    assert_eq!(log.len(), 1);
    let entry = &log[0];
    assert_eq!((entry.kind, entry.position, entry.epoch), (EntryKind::Commit, Position(1), Epoch(0)));
    assert_eq!((entry.sender_id, &entry.sender_device_id), (alice.user_id, &alice.device_id));
    assert_eq!((entry.body.as_ref(), entry.closes.len()), (Some(&commit.body), 0));
    assert_eq!((entry.message_type, entry.expires_at, entry.accepted_at), (None, None, engine.now()));

    let founders = engine.window(&alice, group.group_id).await;
    assert_eq!(
        (founders.opened_after, engine.gate(&alice, &founders).await),
        (Position(0), Gate::Joined(group.group_id))
    );
    for (device, joiner) in [&bob, &laptop, &tablet].into_iter().zip(&joiners) {
        let window = engine.window(device, group.group_id).await;
        assert_eq!(
            (window.opened_after, window.cursor, window.joined_epoch),
            (Position(1), Position(1), Epoch(1))
        );
        let welcome = Gate::Welcome(group.group_id, Epoch(1), joiner.welcome.clone());
        assert_eq!(engine.gate(device, &window).await, welcome);
        assert_eq!(engine.standing(group.group_id, device).await.leaf, Some(joiner.leaf_index));
    }
    let members = engine.members(group.group_id).await;
    let told: Vec<_> = members.iter().map(|member| (member.user_id, member.role, member.invited)).collect();
    assert_eq!(told, [(alice.user_id, Role::Owner, false), (bob.user_id, Role::Member, false)]);
    let leaves = |member: usize| members[member].devices.iter().map(|it| (it.device_no, it.leaf_index));
    assert_eq!(leaves(0).collect::<Vec<_>>(), [(alice.device_no, Some(0)), (laptop.device_no, Some(2))]);
    assert_eq!(leaves(1).collect::<Vec<_>>(), [(bob.device_no, Some(1)), (tablet.device_no, Some(3))]);
    let stored = engine.store.commit_of(group.group_id, 0, Epoch(0)).await.unwrap();
    let expected = StoredCommit {
        sender: alice.device_no,
        digest: commit.digest,
        epoch: Epoch(0),
        position: Position(1),
    };
    assert_eq!(stored, Some(expected));
    let issued = engine.store.issued_packages(&[joiners[0].reference]).await.unwrap();
    assert!(!issued[0].usable, "it entered a group");
    let tree = engine.store.ratchet_tree(group.group_id, 0, Epoch(1)).await.unwrap();
    assert_eq!(tree, founding.epoch_state.tree);
}

async fn a_repeat_finds_the_group_as_it_is_now(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let joiners = engine.joiners(1, &[&bob]).await;
    for new in [mls::filled(&alice, joiners), mls::roster(&alice, &[bob.user_id])] {
        let group = engine.created(new.clone()).await;
        let before = engine.tables().await;
        assert_eq!(engine.try_create(new.clone()).await, GroupCreated::Repeated(group.clone()));
        engine.assert_unchanged(&before, "a repeat").await;
        engine.say(group.group_id, &alice).await;
        let GroupCreated::Repeated(now) = engine.try_create(new).await else { panic!("it is a repeat") };
        assert_eq!(now.head, group.head.next(), "it has moved on");
    }
}

async fn an_id_of_another_group_is_refused(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let laptop = engine.mls_link(&alice, "laptop").await;
    let first = mls::roster(&alice, &[]);
    engine.created(first.clone()).await;
    let before = engine.tables().await;
    for other in [
        NewGroup { digest: mothers::bytes(), ..first.clone() },
        NewGroup { by: bob.clone(), ..first.clone() },
        NewGroup { by: laptop, ..first.clone() },
        NewGroup { group_id: first.group_id, ..mls::group(&bob) },
    ] {
        assert_eq!(engine.try_create(other).await, GroupCreated::Exists);
    }
    engine.assert_unchanged(&before, "a refused founding").await;
}

async fn group_ids_and_conversation_ids_never_collide(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let named = Uuid::new_v4();
    let in_conversation = |id| Send {
        conversation: Conversation::Named(ConversationId::new(id)),
        ..mothers::send(&alice, bob.user_id)
    };
    engine.stored(in_conversation(named)).await;
    let own = mothers::conversation(alice.user_id, bob.user_id).uuid();
    engine.stored(mothers::send(&alice, bob.user_id)).await;
    let before = engine.tables().await;
    for taken in [named, own] {
        for new in [mls::roster(&alice, &[bob.user_id]), mls::group(&bob)] {
            let new = NewGroup { group_id: GroupId::new(taken), ..new };
            assert_eq!(engine.try_create(new).await, GroupCreated::Exists);
        }
    }
    engine.assert_unchanged(&before, "an id of a conversation").await;
    let groups = [engine.roster(&alice, &[&bob]).await, engine.filled(&alice, &[&bob]).await];
    let before = engine.tables().await;
    for group in groups {
        let refused = engine.accept(in_conversation(group.uuid())).await;
        assert_eq!(refused, Accepted::ConversationUnknown);
    }
    engine.assert_unchanged(&before, "an id of a group").await;
}

async fn a_founder_that_is_gone_makes_no_group(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    engine.deactivate(&alice, &alice).await;
    let before = engine.tables().await;
    for new in [mls::roster(&alice, &[bob.user_id]), mls::group(&alice)] {
        assert_eq!(engine.try_create(new).await, GroupCreated::Gone);
    }
    engine.assert_unchanged(&before, "a founder that is gone").await;
}

async fn a_group_with_somebody_who_cannot_be_added_is_not_made(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let good = engine.joiner(&carol, 2).await;
    let used = engine.joiner(&bob, 1).await;
    engine.created(mls::filled(&alice, vec![used.clone()])).await;
    let gone = engine.joiner(&tablet, 1).await;
    engine.deactivate(&bob, &tablet).await;
    let key = engine.mls_key(&bob, restante::domain::SignatureScheme::Ed25519).await.unwrap();
    let stored = mls::package(&key, SUITE);
    engine.publish(&bob, mls::one_time(std::slice::from_ref(&stored))).await;
    let never_given = Joiner { reference: stored.reference, ..used.clone() };
    let unknown = Joiner { reference: mls::package(&key, SUITE).reference, ..used.clone() };
    let left = engine.newcomer().await;
    engine.deactivate(&left, &left).await;
    let nobody = mothers::user();

    let before = engine.tables().await;
    let cases = [
        (mls::filled(&alice, vec![good.clone(), used.clone()]), CannotAdd::PackageUsed(used.reference)),
        (
            mls::filled(&alice, vec![never_given.clone(), good.clone()]),
            CannotAdd::PackageUsed(stored.reference),
        ),
        (mls::filled(&alice, vec![unknown.clone()]), CannotAdd::PackageUsed(unknown.reference)),
        (mls::filled(&alice, vec![good, gone]), CannotAdd::DeviceGone(tablet.device_no)),
        (mls::roster(&alice, &[bob.user_id, nobody]), CannotAdd::UserUnknown(nobody)),
        (mls::roster(&alice, &[left.user_id, bob.user_id]), CannotAdd::UserUnknown(left.user_id)),
    ];
    for (new, refusal) in cases {
        assert_eq!(engine.try_create(new).await, GroupCreated::CannotAdd(refusal));
        engine.assert_unchanged(&before, &format!("{refusal:?}")).await;
    }
}

async fn a_private_group_knows_neither_leaves_nor_trees(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let joiner = Joiner { leaf_index: None, ..engine.joiner(&bob, 1).await };
    let new = mls::filled(&alice, vec![joiner.clone()]);
    let Founding::Mls(founding) = new.founding else { panic!("it is an MLS group") };
    let mut epoch_state = founding.epoch_state.clone();
    (epoch_state.state, epoch_state.tree) = (None, None);
    let founding = MlsFounding { epoch_state, ..*founding };
    let new = NewGroup { handshake: Handshake::Private, founding: Founding::Mls(Box::new(founding)), ..new };
    let group = engine.created(new).await;
    assert_eq!((group.handshake, group.epoch), (Handshake::Private, Epoch(1)));
    assert_eq!(engine.standing(group.group_id, &bob).await.leaf, Some(None));
    let judged = engine.store.handshake_state(group.group_id).await.unwrap().unwrap();
    assert_eq!(judged.state_digest, None);
    assert!(engine.store.ratchet_tree(group.group_id, 0, Epoch(1)).await.unwrap().is_none());
    let window = engine.window(&bob, group.group_id).await;
    let welcome: Bytes = joiner.welcome;
    assert_eq!(engine.gate(&bob, &window).await, Gate::Welcome(group.group_id, Epoch(1), welcome));
}

async fn what_a_founding_emits_is_what_lies_in_the_mailboxes(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let joiners = engine.joiners(1, &[&bob]).await;
    engine.emitted_all();
    let group = engine.created(mls::filled(&alice, joiners)).await.group_id;
    let (items, entries) = engine.emitted_all();
    assert_eq!(entries.iter().map(|entry| (**entry).clone()).collect::<Vec<_>>(), engine.log(group).await);
    assert_eq!(items.len(), 2);
    for device in [&alice, &bob] {
        let window = engine.window(device, group).await;
        let live = items.iter().find(|live| live.device_no == device.device_no).unwrap();
        assert_eq!((live.position, live.item.opens_window_of()), (window.gate, Some(group)));
        let stored = engine.items(device.device_no).await.pop().unwrap().1;
        assert_eq!(live.item.message_id(), stored.message_id());
    }
}

async fn no_group_has_an_id_like_those_of_pairs(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let own = ConversationKey::new([9; 32]).of(alice.user_id, bob.user_id);
    let before = engine.tables().await;
    for new in [mls::roster(&alice, &[bob.user_id]), mls::group(&alice)] {
        let taken = NewGroup { group_id: GroupId::new(own.uuid()), ..new };
        assert_eq!(engine.try_create(taken).await, GroupCreated::Exists);
    }
    engine.assert_unchanged(&before, "the id of a pair's own conversation").await;
}
