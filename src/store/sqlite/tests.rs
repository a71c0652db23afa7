//! What the conformance suite cannot look at from outside.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use sqlx::{AssertSqlSafe, Executor as _, SqlitePool, sqlite::SqliteConnectOptions};
use uuid::Uuid;

use super::{SqliteStore, folder::MIGRATOR, history::HAS_WRITTEN};
use crate::{
    domain::{
        DeviceId, DeviceNo, IdentityKey, KeyId, ManualClock, Pseudonyms, RegistrationId, SecurityEvent,
        SessionId, SignedPreKey, Timestamp, UserId,
    },
    store::{
        Deactivated, Limits, NewSession, Registered, Registration, Revival, Revocation, Rotated, Rotation,
        SingleUse, Store as _,
    },
};

const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

const LIMITS: Limits = Limits {
    max_devices: 5,
    max_prekeys: 200,
    mailbox_items: 10_000,
    mailbox_items_per_sender: 1_000,
    notice_life: Duration::from_hours(24),
    max_members: 1_500,
    max_groups: 2_000,
    past_epochs: 2,
};

/// A user, a device and a session as `a_database_of_the_first_schema_goes_on_working` writes them.
const OLD_ROWS: &str = "
    INSERT INTO users VALUES (x'000000000000000000000000000000aa', 1749900000000);
    INSERT INTO devices (device_no, user_id, device_id, device_number, registration_id, created_at, last_seen, \
        identity_key, signed_prekey_id, signed_prekey, signed_prekey_signature, signed_prekey_at) \
        VALUES (7, x'000000000000000000000000000000aa', 'phone', 1, 77, 1749900000000, 1749859200000, \
        zeroblob(32), 1, zeroblob(33), zeroblob(64), 1749900000000);
    INSERT INTO mailboxes (device_no, user_id) VALUES (7, x'000000000000000000000000000000aa');
    INSERT INTO sessions VALUES (x'000000000000000000000000000000bb', 7, zeroblob(32), 1749900000000, 1750504800000);
    INSERT INTO revocations (device_no, revoked_at) VALUES (3, 1749999999000);
";

async fn open(folder: &Path) -> SqliteStore {
    let (committed, _deliveries) = crate::store::committed(1000, usize::MAX);
    let clock = Arc::new(ManualClock::at(NOW));
    SqliteStore::open(folder, LIMITS, committed, clock, Pseudonyms::new([7; 32])).await.unwrap()
}

fn user(number: u128) -> UserId {
    UserId::new(Uuid::from_u128(number))
}

fn registration(user_id: UserId, device: &str, signed_prekey: u8) -> Registration {
    Registration {
        mls_signature_keys: Vec::new(),
        packages: crate::store::PackageUpload::default(),
        user_id,
        device_id: DeviceId::parse(device).unwrap(),
        device_name: None,
        registration_id: RegistrationId::new(77).unwrap(),
        identity_key: IdentityKey::Ed25519([3; 32]),
        signed_prekey: SignedPreKey {
            id: KeyId::new(1).unwrap(),
            public_key: Bytes::from(vec![signed_prekey; 33]),
            signature: [7; 64],
        },
        onetime_prekeys: Vec::new(),
        kem_prekeys: Vec::new(),
        last_resort_kem_prekey: None,
        may_claim: true,
        link_token_hash: None,
        revival: None,
        session: NewSession {
            session_id: SessionId::new(Uuid::new_v4()),
            refresh_hash: *blake3::hash(Uuid::new_v4().as_bytes()).as_bytes(),
            expires_at: NOW.plus(Duration::from_hours(24 * 7)),
        },
    }
}

async fn registered(store: &SqliteStore, registration: Registration) -> crate::domain::Caller {
    match store.register_device(registration, NOW).await.unwrap() {
        Registered::Registered(principal) => principal.caller,
        refused => panic!("{refused:?}"),
    }
}

async fn rows(store: &SqliteStore, count: &'static str) -> i64 {
    sqlx::query_scalar(count).fetch_one(&store.folder.readers).await.unwrap()
}

/// A user without devices, of whom nothing is noted yet.
async fn claim(store: &SqliteStore, user: UserId) {
    let claim = "INSERT INTO users (user_id, claimed_at) VALUES (?, 0)";
    sqlx::query(claim).bind(user.uuid()).execute(&store.folder.writer).await.unwrap();
}

#[tokio::test]
async fn an_entry_of_the_trail_is_never_changed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    claim(&store, user(1)).await;
    store.note_event(user(1), SecurityEvent::AdmissionRefused, NOW).await.unwrap();
    let refused = store.folder.writer.execute("UPDATE audit SET event = 8").await.unwrap_err();
    assert!(refused.to_string().contains("the audit trail is append-only"), "{refused}");
    let trail = store.audit(user(1), None, 10).await.unwrap();
    assert_eq!(trail.len(), 1);
    assert_eq!(trail[0].event, SecurityEvent::AdmissionRefused);
}

#[tokio::test]
async fn the_trail_does_not_name_its_user() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    claim(&store, user(1)).await;
    store.note_event(user(1), SecurityEvent::LimitTripped, NOW).await.unwrap();
    let subject: Vec<u8> =
        sqlx::query_scalar("SELECT subject FROM audit").fetch_one(&store.folder.readers).await.unwrap();
    assert_eq!(subject, Pseudonyms::new([7; 32]).of(user(1)).0);
}

#[tokio::test]
async fn a_database_of_the_first_schema_goes_on_working() {
    let folder = tempfile::tempdir().unwrap();
    let database = SqliteConnectOptions::new().filename(folder.path().join("restante.db"));
    let old = SqlitePool::connect_with(database.create_if_missing(true)).await.unwrap();
    MIGRATOR.run_to(1, &old).await.unwrap();
    old.execute(OLD_ROWS).await.unwrap();
    old.close().await;

    let store = open(folder.path()).await;
    store.check().await.unwrap();
    assert_eq!(
        store.revocations(NOW.minus(Duration::from_mins(1))).await.unwrap(),
        [Revocation::Device(DeviceNo(3))]
    );
    let sessions = store.sessions(user(0xaa), NOW).await.unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].created_at, Timestamp::from_millis(1_749_900_000_000));
    assert_eq!(sessions[0].last_used, sessions[0].created_at.day());

    let rotation = Rotation {
        session_id: sessions[0].session_id,
        presented: [0; 32],
        next: [1; 32],
        expires_at: NOW.plus(Duration::from_hours(24 * 7)),
    };
    let rotated = store.rotate_session(rotation, NOW).await.unwrap();
    let Rotated::Rotated { principal, .. } = rotated else { panic!("{rotated:?}") };
    assert_eq!(principal.user_since, sessions[0].created_at);
    let gone = store.deactivate(&principal.caller, &principal.caller.device_id, NOW).await.unwrap();
    assert_eq!(gone, Deactivated::Gone(DeviceNo(7)));
    assert_eq!(store.recovery_keys(user(0xaa)).await.unwrap(), [IdentityKey::Ed25519([0; 32])]);
}

#[tokio::test]
async fn a_refused_registration_leaves_no_row_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let uninvited = Registration { may_claim: false, ..registration(user(1), "phone", 1) };
    let refused = store.register_device(uninvited, NOW).await.unwrap();
    assert_eq!(refused, Registered::AdmissionRequired);
    assert_eq!(rows(&store, "SELECT count(*) FROM users").await, 0);

    let phone = registered(&store, registration(user(1), "phone", 1)).await;
    store.deactivate(&phone, &phone.device_id, NOW).await.unwrap();
    let token = SingleUse { hash: [5; 32], expires_at: NOW.plus(Duration::from_mins(5)) };
    let with_old_key =
        Registration { revival: Some(Revival::Admitted(token)), ..registration(user(1), "phone", 1) };
    let refused = store.register_device(with_old_key, NOW).await.unwrap();
    assert!(matches!(refused, Registered::KeyReused(..)), "{refused:?}");
    assert_eq!(rows(&store, "SELECT count(*) FROM used_tokens").await, 0);
    assert_eq!(rows(&store, "SELECT count(*) FROM audit WHERE event = 0").await, 1);

    let back = Registration { revival: Some(Revival::Admitted(token)), ..registration(user(1), "phone", 2) };
    registered(&store, back).await;
    assert_eq!(rows(&store, "SELECT count(*) FROM used_tokens").await, 1);
}

#[tokio::test]
async fn what_somebody_wrote_is_found_by_the_conversations_index() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let explain = AssertSqlSafe(format!("EXPLAIN QUERY PLAN {HAS_WRITTEN}"));
    let plan: Vec<(i64, i64, i64, String)> = sqlx::query_as(explain)
        .bind(vec![0_u8; 16])
        .bind(vec![0_u8; 16])
        .fetch_all(&store.folder.readers)
        .await
        .unwrap();
    let steps: Vec<_> = plan.into_iter().map(|(.., step)| step).collect();
    let search = "SEARCH messages USING INDEX messages_conversation (conversation_id=?)".to_owned();
    assert!(steps.contains(&search), "{steps:?}");
    assert!(!steps.iter().any(|step| step.contains("TEMP B-TREE")), "{steps:?}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_folder_made_beforehand_is_its_owners_alone_and_is_not_locked() {
    use std::os::unix::fs::PermissionsExt as _;

    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    SqliteStore::make_folder(&folder).unwrap();
    SqliteStore::make_folder(&folder).unwrap();
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    open(&folder).await.check().await.unwrap();
}
