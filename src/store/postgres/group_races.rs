//! Acts on groups that meet on locks, on two nodes at once.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::{
    PostgresStore,
    fixtures::{Database, NOW, later, linked, random_hash, register, registration, send, stored, user},
};
use crate::{
    domain::{
        Caller, CipherSuite, Conversation, ConversationId, Epoch, ExternalJoin, GroupId, GroupSend,
        Handshake, KeyPackage, KeyPackageRef, MessageId, MessageType, MlsSignatureKey, Position, Role,
        SignatureScheme, UserId,
    },
    store::{
        Accepted, Advance, Advanced, CannotAdd, Commit, Deactivated, EpochState, Founding, GroupAccepted,
        GroupActs as _, GroupCreated, Joiner, MlsFounding, NewGroup, OneTimeKeys, PackageActs as _,
        PackageUpload, RosterChange, Store as _,
    },
};

fn body() -> Bytes {
    Bytes::copy_from_slice(&random_hash())
}

fn roster(by: &Caller, members: &[UserId]) -> NewGroup {
    NewGroup {
        group_id: GroupId::new(Uuid::new_v4()),
        digest: random_hash(),
        by: by.clone(),
        name: None,
        description: None,
        handshake: Handshake::None,
        external_join: ExternalJoin::None,
        founding: Founding::Roster(members.to_vec()),
    }
}

fn epoch_state() -> EpochState {
    EpochState { state: Some(body()), group_info: body(), tree: Some(body()) }
}

fn mls(by: &Caller) -> NewGroup {
    let founding = MlsFounding {
        cipher_suite: CipherSuite::X25519Aes128,
        commit: None,
        joiners: vec![],
        epoch_state: epoch_state(),
    };
    NewGroup { handshake: Handshake::Public, founding: Founding::Mls(Box::new(founding)), ..roster(by, &[]) }
}

async fn created(store: &PostgresStore, new: NewGroup) -> GroupId {
    let created = store.create_group(new.clone(), NOW).await.unwrap();
    assert!(matches!(created, GroupCreated::Created(_)), "{created:?}");
    new.group_id
}

fn to_group(from: &Caller, group_id: GroupId, epoch: Option<i64>) -> GroupSend {
    GroupSend {
        sender: from.clone(),
        group_id,
        message_id: MessageId::new(Uuid::new_v4()),
        digest: random_hash(),
        epoch: epoch.map(Epoch),
        message_type: MessageType::Opaque,
        expires_at: None,
        body: body(),
    }
}

/// A package of the device that was handed out, in a Welcome's place.
async fn joiner(store: &PostgresStore, device: &Caller, leaf: u32) -> Joiner {
    let scheme = SignatureScheme::Ed25519;
    let key = MlsSignatureKey { scheme, public_key: body(), signature: [3; 64] };
    store.set_mls_key(device.device_no, key.clone(), NOW).await.unwrap();
    let package = KeyPackage {
        reference: KeyPackageRef(random_hash()),
        cipher_suite: CipherSuite::X25519Aes128,
        signature_key: key.public_key,
        init_key_digest: random_hash(),
        not_after: later(86_400),
        body: body(),
    };
    let upload = PackageUpload { packages: vec![package.clone()], last_resort: None };
    store.publish_packages(device.device_no, upload, NOW).await.unwrap();
    let suite = package.cipher_suite;
    let claimed = store.claim_packages(device.user_id, suite, None, OneTimeKeys::Given, NOW).await.unwrap();
    assert!(claimed.iter().any(|claimed| claimed.package == package.body));
    Joiner {
        device_no: device.device_no,
        reference: package.reference,
        leaf_index: Some(leaf),
        welcome: body(),
    }
}

async fn advance(store: &PostgresStore, group: GroupId, by: &Caller, joiners: Vec<Joiner>) -> Advance {
    let standing = store.standing(group, by).await.unwrap().unwrap();
    let commit = body();
    Advance {
        group_id: group,
        by: by.clone(),
        version: standing.version,
        generation: standing.group.generation,
        epoch: standing.group.epoch,
        commit: Commit { digest: blake3::hash(&commit).into(), body: commit },
        epoch_state: epoch_state(),
        joiners,
        external: None,
        removed: vec![],
    }
}

/// Until so many acts wait for a lock.
async fn waiting(store: &PostgresStore, acts: i64) {
    let count = "SELECT count(*) FROM pg_stat_activity \
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while sqlx::query_scalar::<_, i64>(count).fetch_one(&store.pool).await.unwrap() < acts {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn hold(
    store: &PostgresStore,
    statement: &'static str,
    id: Uuid,
) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut held = store.pool.begin().await.unwrap();
    sqlx::query(statement).bind(id).execute(&mut *held).await.unwrap();
    held
}

/// As a commit does that is slow.
const HOLD_WINDOWS: &str = "SELECT FROM group_windows WHERE group_id = $1 FOR UPDATE";

const HOLD_GROUP: &str = "SELECT FROM groups WHERE group_id = $1 FOR UPDATE";

fn position(accepted: &GroupAccepted) -> i64 {
    match accepted {
        GroupAccepted::Stored(receipt) => receipt.position.0,
        refused => panic!("{refused:?}"),
    }
}

// On one thread, so that the sends come as one batch.
#[tokio::test]
async fn sends_pass_by_a_group_that_is_held_until_they_wait_for_it() {
    let Some(database) = Database::create().await else { return };
    let store = Arc::new(database.one_node().await);
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let held = created(&store, roster(&alice, &[bob.user_id])).await;
    let free = created(&store, roster(&bob, &[])).await;
    let lock = hold(&store, HOLD_GROUP, held.uuid()).await;

    // One batch: what waits, what goes, and what may not overtake.
    let sends = [(&alice, held), (&bob, free), (&alice, held), (&bob, held), (&bob, free)];
    let mut answers: Vec<_> = sends
        .into_iter()
        .map(|(from, group)| tokio::spawn(store.accept_group_send(to_group(from, group, None))))
        .collect();
    let passed = answers.remove(1).await.unwrap().unwrap();
    assert_eq!(position(&passed), 1);
    waiting(&store, 1).await;
    assert!(answers.iter().all(|answer| !answer.is_finished()));
    lock.rollback().await.unwrap();
    let answers = join_all(answers).await.into_iter().map(|answer| answer.unwrap().unwrap());
    assert_eq!(answers.map(|answer| position(&answer)).collect::<Vec<_>>(), [1, 2, 3, 2]);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acks_of_a_mailbox_go_on_while_the_windows_of_a_group_are_held() {
    let Some(database) = Database::create().await else { return };
    let store = Arc::new(database.one_node().await);
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let group = created(&store, roster(&alice, &[bob.user_id])).await;
    store.accept_group_send(to_group(&alice, group, None)).await.unwrap();
    stored(&store, send(&alice, bob.user_id)).await;
    let lock = hold(&store, HOLD_WINDOWS, group.uuid()).await;

    let entry = tokio::spawn({
        let (store, device) = (Arc::clone(&store), bob.device_no);
        async move { store.ack_entries(device, &[(group, Position(1))]).await }
    });
    waiting(&store, 1).await;
    // `joined`, and the message.
    let acked = store.ack(bob.device_no, vec![Position(1), Position(2)]).await.unwrap();
    assert_eq!((acked, entry.is_finished()), (2, false));
    lock.rollback().await.unwrap();
    entry.await.unwrap().unwrap();
    let windows = store.windows_in(bob.device_no, group).await.unwrap();
    assert_eq!(windows.iter().map(|window| window.cursor).collect::<Vec<_>>(), [Position(1)]);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_added_while_it_ends_is_left_without_a_window() {
    let Some(database) = Database::create().await else { return };
    let store = Arc::new(database.one_node().await);
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let tablet = linked(&store, &bob, "tablet", NOW).await;
    let group = created(&store, mls(&alice)).await;
    let commit = advance(&store, group, &alice, vec![joiner(&store, &tablet, 1).await]).await;

    // The commit has the group and waits for the mailbox; the deactivation, which found no group, waits behind it.
    let lock = hold(&store, "SELECT FROM mailboxes WHERE user_id = $1 FOR UPDATE", bob.user_id.uuid()).await;
    let adding = tokio::spawn({
        let (store, commit) = (Arc::clone(&store), commit.clone());
        async move { store.advance_group(commit, NOW).await.unwrap() }
    });
    waiting(&store, 1).await;
    let ending = tokio::spawn({
        let (store, by, target) = (Arc::clone(&store), bob.clone(), tablet.device_id.clone());
        async move { store.deactivate(&by, &target, NOW).await.unwrap() }
    });
    waiting(&store, 2).await;
    lock.rollback().await.unwrap();
    let (added, ended) = (adding.await.unwrap(), ending.await.unwrap());
    assert_eq!(ended, Deactivated::Gone(tablet.device_no));
    let refused = Advanced::CannotAdd(CannotAdd::DeviceGone(tablet.device_no));
    assert!(added == refused || added == Advanced::Advanced(Epoch(1), Position(1)), "{added:?}");
    assert!(store.windows_in(tablet.device_no, group).await.unwrap().is_empty());
    let members = store.members(group).await.unwrap().unwrap();
    let active = members.iter().flat_map(|member| &member.devices).filter(|device| device.active).count();
    assert_eq!((members.len(), active), (if added == refused { 1 } else { 2 }, 1));
    let version = store.standing(group, &alice).await.unwrap().unwrap().version;
    assert_eq!(version, commit.version + if added == refused { 0 } else { 2 }, "its leaf is dead now");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_becomes_a_group_or_a_conversation_and_never_both() {
    let Some(database) = Database::create().await else { return };
    let nodes = [Arc::new(database.one_node().await), Arc::new(database.one_node().await)];
    let alice = register(&nodes[0], registration(user(), "phone")).await;
    let bob = register(&nodes[0], registration(user(), "phone")).await;
    for _ in 0..20 {
        let new = roster(&alice, &[]);
        let mut message = send(&bob, alice.user_id);
        message.conversation = Conversation::Named(ConversationId::new(new.group_id.uuid()));
        let (made, accepted) =
            tokio::join!(nodes[0].create_group(new, NOW), nodes[1].accept_envelopes(message));
        match (made.unwrap(), accepted.unwrap()) {
            (GroupCreated::Created(_), Accepted::ConversationUnknown)
            | (GroupCreated::Exists, Accepted::Stored(_)) => {}
            both => panic!("{both:?}"),
        }
    }
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_an_entry_is_taken_for_sends_and_one_of_a_send_for_entries() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let alice = register(&store, registration(user(), "phone")).await;
    let group = created(&store, roster(&alice, &[])).await;
    let entry = to_group(&alice, group, None);
    assert_eq!(position(&store.accept_group_send(entry.clone()).await.unwrap()), 1);
    let mut message = send(&alice, alice.user_id);
    let own = GroupSend { message_id: message.message_id, ..to_group(&alice, group, None) };
    let tablet = linked(&store, &alice, "tablet", NOW).await;
    stored(&store, message.clone()).await;
    assert_eq!(store.accept_group_send(own).await.unwrap(), GroupAccepted::MessageIdReused);
    (message.message_id, message.digest) = (entry.message_id, entry.digest);
    assert_eq!(store.accept_envelopes(message).await.unwrap(), Accepted::MessageIdReused);
    assert!(store.windows_in(tablet.device_no, group).await.unwrap().len() == 1);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_lane_knows_its_own_repeats_of_an_id_that_came_to_both() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let alice = register(&store, registration(user(), "phone")).await;
    let bob = register(&store, registration(user(), "phone")).await;
    let group = created(&store, roster(&alice, &[])).await;
    let (message, mut entry) = (send(&alice, bob.user_id), to_group(&alice, group, None));
    stored(&store, message.clone()).await;
    assert_eq!(position(&store.accept_group_send(entry.clone()).await.unwrap()), 1);
    // As two nodes leave it that took both at one time.
    sqlx::query("UPDATE group_log SET message_id = $1")
        .bind(message.message_id.uuid())
        .execute(&store.pool)
        .await
        .unwrap();
    entry.message_id = message.message_id;
    let (sent, said) =
        (store.accept_envelopes(message).await.unwrap(), store.accept_group_send(entry).await.unwrap());
    assert!(matches!(sent, Accepted::Repeated(_)), "{sent:?}");
    assert!(matches!(said, GroupAccepted::Repeated(_)), "{said:?}");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expiry_waits_for_a_busy_group_that_is_all_there_is_to_do() {
    let Some(database) = Database::create().await else { return };
    let store = Arc::new(database.one_node().await);
    let alice = register(&store, registration(user(), "phone")).await;
    let [busy, behind] =
        [created(&store, roster(&alice, &[])).await, created(&store, roster(&alice, &[])).await];
    store.accept_group_send(to_group(&alice, busy, None)).await.unwrap();
    store.accept_group_send(to_group(&alice, behind, None)).await.unwrap();
    sqlx::query("UPDATE group_log SET accepted_at = accepted_at - interval '1 minute' WHERE group_id = $1")
        .bind(busy.uuid())
        .execute(&store.pool)
        .await
        .unwrap();
    let lock = hold(&store, HOLD_GROUP, busy.uuid()).await;
    let expiring = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.expire(later(31 * 86_400), 1).await.unwrap() }
    });
    waiting(&store, 1).await;
    lock.rollback().await.unwrap();
    assert!(expiring.await.unwrap().more, "there is one behind it");
    let left: Vec<Uuid> =
        sqlx::query_scalar("SELECT group_id FROM group_log").fetch_all(&store.pool).await.unwrap();
    assert_eq!(left, [behind.uuid()]);
    database.drop().await;
}

/// Writes to both groups, reads and acks, over and over.
fn talk(node: &Arc<PostgresStore>, from: &Caller, to: UserId, groups: [GroupId; 2]) -> JoinHandle<()> {
    let (node, from) = (Arc::clone(node), from.clone());
    tokio::spawn(async move {
        for round in 0..30 {
            for group in groups {
                let epoch = node.standing(group, &from).await.unwrap().unwrap();
                let epoch = (epoch.group.handshake != Handshake::None).then_some(epoch.group.epoch.0);
                let accepted = node.accept_group_send(to_group(&from, group, epoch)).await.unwrap();
                assert!(
                    matches!(accepted, GroupAccepted::Stored(_) | GroupAccepted::Stale(_)),
                    "{accepted:?}"
                );
            }
            let acks = groups.map(|group| (group, Position(round * 2)));
            node.ack_entries(from.device_no, &acks).await.unwrap();
            stored(&node, send(&from, to)).await;
            // Seconds, so that the link tokens of the others hold.
            node.expire(later(u64::try_from(round).unwrap()), 5).await.unwrap();
        }
    })
}

/// Commits, and adds and removes a user of the roster group, over and over.
fn govern(node: &Arc<PostgresStore>, by: &Caller, guest: &Caller, groups: [GroupId; 2]) -> JoinHandle<()> {
    let (node, by, guest) = (Arc::clone(node), by.clone(), guest.user_id);
    tokio::spawn(async move {
        for round in 0..30 {
            let commit = advance(&node, groups[0], &by, vec![]).await;
            let advanced = node.advance_group(commit, NOW).await.unwrap();
            assert!(
                matches!(advanced, Advanced::Advanced(..) | Advanced::Stale(_) | Advanced::Changed),
                "{advanced:?}"
            );
            let (add, remove) = if round % 2 == 0 { (vec![guest], vec![]) } else { (vec![], vec![guest]) };
            let change = RosterChange { group_id: groups[1], by: by.clone(), add, remove };
            node.change_roster(change, NOW).await.unwrap();
        }
    })
}

/// Another device of the guest comes and goes, over and over.
fn come_and_go(node: &Arc<PostgresStore>, phone: &Caller) -> JoinHandle<()> {
    let (node, phone) = (Arc::clone(node), phone.clone());
    tokio::spawn(async move {
        for _ in 0..12 {
            let tablet = linked(&node, &phone, "tablet", NOW).await;
            let ended = node.deactivate(&phone, &tablet.device_id, NOW).await.unwrap();
            assert_eq!(ended, Deactivated::Gone(tablet.device_no));
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_on_groups_that_race_never_deadlock_and_leave_no_gap() {
    let Some(database) = Database::create().await else { return };
    let nodes = [Arc::new(database.one_node().await), Arc::new(database.one_node().await)];
    let [alice, bob, guest] = [user(), user(), user()].map(|user| registration(user, "phone"));
    let alice = register(&nodes[0], alice).await;
    let bob = register(&nodes[0], bob).await;
    let guest = register(&nodes[0], guest).await;
    let group = created(&nodes[0], mls(&alice)).await;
    let joiners = vec![joiner(&nodes[0], &bob, 1).await];
    let added = advance(&nodes[0], group, &alice, joiners).await;
    nodes[0].advance_group(added, NOW).await.unwrap();
    let groups = [group, created(&nodes[0], roster(&alice, &[bob.user_id])).await];
    nodes[0].set_role(groups[1], &alice, bob.user_id, Role::Admin).await.unwrap();
    let tasks = [
        talk(&nodes[0], &alice, bob.user_id, groups),
        talk(&nodes[1], &alice, bob.user_id, groups),
        talk(&nodes[1], &bob, alice.user_id, groups),
        govern(&nodes[0], &alice, &guest, groups),
        govern(&nodes[1], &bob, &guest, groups),
        come_and_go(&nodes[1], &guest),
    ];
    join_all(tasks).await.into_iter().for_each(Result::unwrap);
    for group in groups {
        let page = nodes[1].group_log(group, Position::START, 10_000, usize::MAX, NOW).await.unwrap();
        let places: Vec<i64> = page.entries.iter().map(|entry| entry.position.0).collect();
        assert_eq!(places, (1..=page.head.0).collect::<Vec<_>>());
    }
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&nodes[0].pool)
            .await
            .unwrap();
    assert_eq!(deadlocks, 0);
    database.drop().await;
}
