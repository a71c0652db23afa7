//! Sessions, things that work once and the trail, where the conformance suite cannot look.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use uuid::Uuid;

use secrecy::ExposeSecret;

use super::fixtures::{Database, NOW, later, linked, login, random_hash, register, registration, user};
use crate::{
    domain::{Caller, IdentityKey, SecurityEvent, SessionId, UserId},
    store::{
        AUDIT_LIFE, Deactivated, LoggedIn, Principal, Registered, Revival, Revocation, Rotated, Rotation,
        SESSIONS_PER_DEVICE, SingleUse, Store,
    },
};

fn rotation(session_id: SessionId, presented: [u8; 32], next: [u8; 32]) -> Rotation {
    Rotation { session_id, presented, next, expires_at: later(9 * 86_400) }
}

async fn events(store: &impl Store, user: UserId) -> Vec<SecurityEvent> {
    store.audit(user, None, 100).await.unwrap().into_iter().map(|entry| entry.event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_comes_again_ends_its_session() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let new = registration(user(), "phone");
    let (session, first) = (new.session.session_id, new.session.refresh_hash);
    let phone = register(&store, new).await;
    let [second, third] = [random_hash(), random_hash()];
    let principal = Principal { caller: phone.clone(), user_since: NOW };
    let answer = |at| Rotated::Rotated { principal: principal.clone(), at, expires_at: later(9 * 86_400) };
    let rotate = async |presented, next, at| {
        store.rotate_session(rotation(session, presented, next), at).await.unwrap()
    };
    assert_eq!(rotate(first, second, later(1)).await, answer(later(1)));
    assert_eq!(rotate(first, second, later(61)).await, answer(later(1)), "the answer was lost");
    assert_eq!(rotate(second, third, later(62)).await, answer(later(62)));
    assert_eq!(rotate(second, third, later(62)).await, answer(later(62)));
    let listed = store.sessions(phone.user_id, later(62)).await.unwrap();
    assert_eq!((listed.len(), listed[0].created_at, listed[0].last_used), (1, NOW, later(62).day()));
    assert_eq!(rotate(first, second, later(63)).await, Rotated::Reused(phone.device_no));
    assert_eq!(rotate(third, random_hash(), later(63)).await, Rotated::Unknown);
    let revoked = [Revocation::Session(phone.device_no, session)];
    assert_eq!(store.revocations(later(63)).await.unwrap(), revoked);
    let expected = [SecurityEvent::TokenReused, SecurityEvent::DeviceAdded];
    assert_eq!(events(&store, phone.user_id).await, expected);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_answered_for_a_minute_and_for_its_own_successor_alone() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    for (next_again, seconds) in [(false, 1), (true, 61)] {
        let new = registration(user(), "phone");
        let (session, first) = (new.session.session_id, new.session.refresh_hash);
        let phone = register(&store, new).await;
        let next = random_hash();
        let rotated = store.rotate_session(rotation(session, first, next), NOW).await.unwrap();
        assert!(matches!(rotated, Rotated::Rotated { .. }));
        let again = rotation(session, first, if next_again { next } else { random_hash() });
        let reused = store.rotate_session(again, later(seconds)).await.unwrap();
        assert_eq!(reused, Rotated::Reused(phone.device_no));
    }
    let new = registration(user(), "phone");
    let ended = rotation(new.session.session_id, random_hash(), random_hash());
    let end = new.session.expires_at;
    register(&store, new).await;
    assert_eq!(store.rotate_session(ended, end).await.unwrap(), Rotated::Unknown);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_uses_its_challenge_up_and_may_end_the_oldest_session() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let new = registration(user(), "phone");
    let (oldest, token) = (new.session.session_id, new.session.refresh_hash);
    let phone = register(&store, new).await;
    let mut logins = vec![];
    for second in 1..u64::from(SESSIONS_PER_DEVICE) {
        let login = login(&phone);
        let opened = store.open_session(login.clone(), later(second)).await.unwrap();
        assert!(matches!(opened, LoggedIn::LoggedIn(Principal { caller, .. }) if caller == phone));
        logins.push(login);
    }
    // The oldest by login is not the one that was refreshed longest ago.
    store.rotate_session(rotation(oldest, token, random_hash()), later(60)).await.unwrap();
    let used = store.open_session(logins[0].clone(), later(70)).await.unwrap();
    assert_eq!(used, LoggedIn::ChallengeUsed);
    assert!(store.revocations(NOW).await.unwrap().is_empty());
    store.open_session(login(&phone), later(71)).await.unwrap();
    let evicted = logins[0].session.session_id;
    let revoked = [Revocation::Session(phone.device_no, evicted)];
    assert_eq!(store.revocations(later(71)).await.unwrap(), revoked);
    let kept = store.sessions(phone.user_id, later(71)).await.unwrap();
    assert_eq!((kept.len(), kept[0].session_id), (SESSIONS_PER_DEVICE as usize, oldest));

    assert!(store.end_session(phone.device_no, oldest, later(72)).await.unwrap());
    assert!(!store.end_session(phone.device_no, oldest, later(72)).await.unwrap());
    assert_eq!(events(&store, phone.user_id).await[..2], [SecurityEvent::LoggedOut, SecurityEvent::LoggedIn]);
    store.deactivate(&phone, &phone.device_id, later(73)).await.unwrap();
    let late = login(&phone);
    assert_eq!(store.open_session(late.clone(), later(74)).await.unwrap(), LoggedIn::Gone);
    assert!(store.use_once(late.challenge).await.unwrap(), "a login that failed uses nothing up");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_the_trail_is_never_changed_and_goes_by_age() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let phone = register(&store, registration(user(), "phone")).await;
    store.note_event(phone.user_id, SecurityEvent::LimitTripped, later(1)).await.unwrap();
    let page = store.audit(phone.user_id, None, 1).await.unwrap();
    assert_eq!((page.len(), page[0].event, page[0].at), (1, SecurityEvent::LimitTripped, later(1)));
    let older = store.audit(phone.user_id, Some(page[0].entry), 10).await.unwrap();
    assert_eq!((older.len(), older[0].event), (1, SecurityEvent::DeviceAdded));
    assert!(store.audit(user(), None, 10).await.unwrap().is_empty());
    let changed = store.pool.execute("UPDATE audit SET event = 0").await;
    assert!(changed.unwrap_err().to_string().contains("never changed"));
    let spent = SingleUse { hash: random_hash(), expires_at: NOW.plus(AUDIT_LIFE) };
    assert!(store.use_once(spent).await.unwrap() && !store.use_once(spent).await.unwrap());
    // The session and the first entry; then the second entry and, 5 minutes later, what was used.
    assert_eq!(store.expire(NOW.plus(AUDIT_LIFE), 10).await.unwrap().forgotten, 2);
    let minutes = |count| NOW.plus(AUDIT_LIFE).plus(Duration::from_mins(count));
    assert_eq!(store.expire(minutes(4), 10).await.unwrap().forgotten, 1);
    assert!(!store.use_once(spent).await.unwrap());
    assert_eq!(store.expire(minutes(5), 1).await.unwrap().forgotten, 1);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_without_devices_comes_back_by_a_clean_key_or_one_admission() {
    let Some(database) = Database::create().await else { return };
    let store = database.one_node().await;
    let mut uninvited = registration(user(), "phone");
    uninvited.may_claim = false;
    let refused = store.register_device(uninvited.clone(), NOW).await.unwrap();
    assert_eq!(refused, Registered::AdmissionRequired);
    let claimed: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(&store.pool).await.unwrap();
    assert_eq!(claimed, 0);

    let phone = register(&store, registration(user(), "phone")).await;
    let thief = linked(&store, &phone, "thief", NOW).await;
    sqlx::query("UPDATE devices SET identity_key = $2 WHERE device_no = $1")
        .bind(thief.device_no.0)
        .bind([8_u8; 32].as_slice())
        .execute(&store.pool)
        .await
        .unwrap();
    store.deactivate(&phone, &thief.device_id, NOW).await.unwrap();
    assert!(store.recovery_keys(phone.user_id).await.unwrap().is_empty(), "a device is left");
    store.deactivate(&phone, &phone.device_id, NOW).await.unwrap();
    assert_eq!(store.recovery_keys(phone.user_id).await.unwrap(), [IdentityKey::Ed25519([3; 32])]);

    let back = async |revival| {
        let mut new = registration(phone.user_id, "phone");
        (new.revival, new.may_claim) = (revival, false);
        store.register_device(new, later(5)).await.unwrap()
    };
    assert_eq!(back(None).await, Registered::LinkRequired);
    let stolen = Revival::Recovered(IdentityKey::Ed25519([8; 32]));
    assert_eq!(back(Some(stolen)).await, Registered::LinkRequired);
    let recovered = back(Some(Revival::Recovered(IdentityKey::Ed25519([3; 32])))).await;
    let Registered::Registered(Principal { caller, user_since }) = recovered else { panic!() };
    assert_eq!((user_since, caller.device_number.get()), (NOW, 3));
    assert!(store.devices(caller.user_id).await.unwrap()[0].linked_by.is_none());
    end(&store, &caller).await;
    let token = SingleUse { hash: random_hash(), expires_at: later(60) };
    let Registered::Registered(again) = back(Some(Revival::Admitted(token))).await else { panic!() };
    end(&store, &again.caller).await;
    assert_eq!(back(Some(Revival::Admitted(token))).await, Registered::AdmissionUsed);
    database.drop().await;
}

async fn end(store: &impl Store, device: &Caller) {
    let ended = store.deactivate(device, &device.device_id, later(6)).await.unwrap();
    assert_eq!(ended, Deactivated::Gone(device.device_no));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_the_schema_before_get_what_they_lack() {
    let Some(database) = Database::create().await else { return };
    let mut old = PgConnection::connect(database.url().expose_secret()).await.unwrap();
    old.execute(include_str!("../../../migrations/postgres/0001_core.sql")).await.unwrap();
    let user = Uuid::new_v4();
    let session = "INSERT INTO sessions (session_id, device_no, refresh_hash, created_at, expires_at) \
        VALUES (gen_random_uuid(), 1, gen_random_uuid()::text::bytea, '2025-06-01T13:00:00Z', now())";
    let device = format!(
        "INSERT INTO users VALUES ('{user}', now()); \
         INSERT INTO devices (user_id, device_id, device_number, registration_id, created_at, last_seen, identity_key) \
         VALUES ('{user}', 'phone', 1, 1, now(), now(), '\\x00')"
    );
    old.execute(AssertSqlSafe(device)).await.unwrap();
    old.execute(session).await.unwrap();
    old.execute(include_str!("../../../migrations/postgres/0002_devices_prove_themselves.sql"))
        .await
        .unwrap();
    let kept = "SELECT count(*) FROM sessions \
        WHERE rotated_at = created_at AND last_used = '2025-06-01T00:00:00Z' AND previous_hash IS NULL";
    assert_eq!(sqlx::query_scalar::<_, i64>(kept).fetch_one(&mut old).await.unwrap(), 1);
    old.execute(session).await.unwrap();
    old.close().await.unwrap();
    database.drop().await;
}
