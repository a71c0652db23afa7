//! How sessions begin and end, and who sees them.

use std::time::Duration;

use futures_util::future::join_all;
use restante::{
    domain::{Caller, SessionId},
    store::{LoggedIn, Login, NewSession, Principal, Revocation, Rotated, SESSIONS_PER_DEVICE},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    a_device_that_proved_itself_gets_a_session,
    a_challenge_opens_one_session,
    of_racing_logins_with_one_challenge_one_wins,
    a_device_that_is_gone_gets_no_session,
    a_used_challenge_is_told_of_before_a_device_that_is_gone,
    a_session_too_many_takes_the_place_of_the_one_refreshed_longest_ago,
    of_sessions_of_one_moment_the_one_opened_first_gives_way,
    the_sessions_of_one_device_take_no_place_of_anothers,
    a_device_ends_its_own_session_once,
    nobody_ends_the_session_of_another_device,
    an_ended_session_is_revoked_alone,
    sessions_end_with_their_device,
    sessions_are_listed_oldest_first_over_the_users_devices,
    a_session_is_seen_by_the_day,
    a_session_that_has_ended_is_not_listed,
);

const MINUTE: Duration = Duration::from_mins(1);

async fn open(engine: &Engine, login: Login) -> LoggedIn {
    engine.store.open_session(login, engine.now()).await.unwrap()
}

/// A further session of a device.
async fn opened(engine: &Engine, device: &Caller) -> NewSession {
    let login = mothers::login(device, engine.now());
    let session = login.session.clone();
    let outcome = open(engine, login).await;
    assert!(matches!(outcome, LoggedIn::LoggedIn(_)), "{outcome:?}");
    session
}

async fn ids(engine: &Engine, device: &Caller) -> Vec<SessionId> {
    engine.sessions(device.user_id).await.iter().map(|session| session.session_id).collect()
}

async fn is_alive(engine: &Engine, session: &NewSession) -> bool {
    let rotation = mothers::rotation(session.session_id, session.refresh_hash, engine.now());
    match engine.store.rotate_session(rotation, engine.now()).await.unwrap() {
        Rotated::Rotated { .. } => true,
        Rotated::Unknown => false,
        Rotated::Reused(_) => panic!("the token came for the first time"),
    }
}

async fn a_device_that_proved_itself_gets_a_session(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.advance(MINUTE);
    let login = mothers::login(&phone, engine.now());
    let session = login.session.clone();
    let principal = Principal { caller: phone.clone(), user_since: NOON };
    assert_eq!(open(&engine, login).await, LoggedIn::LoggedIn(principal));
    let sessions = engine.sessions(phone.user_id).await;
    assert_eq!(sessions.len(), 2, "beside the one of its registration");
    assert_eq!(sessions[1].session_id, session.session_id);
    assert_eq!(sessions[1].device_id, phone.device_id);
    assert_eq!(sessions[1].device_number, phone.device_number);
    assert_eq!(sessions[1].created_at, NOON.plus(MINUTE));
    assert_eq!(sessions[1].last_used, NOON.plus(MINUTE).day());
    assert_eq!(sessions[1].expires_at, session.expires_at);
    assert!(is_alive(&engine, &session).await);
    assert!(engine.revoked().await.is_empty());
}

async fn a_challenge_opens_one_session(engine: Engine) {
    let (phone, other) = (engine.newcomer().await, engine.newcomer().await);
    let login = mothers::login(&phone, engine.now());
    assert!(matches!(open(&engine, login.clone()).await, LoggedIn::LoggedIn(_)));
    for device in [&phone, &other] {
        let again = Login { challenge: login.challenge, ..mothers::login(device, engine.now()) };
        assert_eq!(open(&engine, again).await, LoggedIn::ChallengeUsed);
    }
    assert_eq!((ids(&engine, &phone).await.len(), ids(&engine, &other).await.len()), (2, 1));
    assert!(!engine.store.use_once(login.challenge).await.unwrap());

    let used = mothers::login(&phone, engine.now());
    assert!(engine.store.use_once(used.challenge).await.unwrap());
    assert_eq!(open(&engine, used).await, LoggedIn::ChallengeUsed);
}

async fn of_racing_logins_with_one_challenge_one_wins(engine: Engine) {
    let phone = engine.newcomer().await;
    let challenge = mothers::single_use(engine.now());
    let racing = (0..16).map(|_| open(&engine, Login { challenge, ..mothers::login(&phone, engine.now()) }));
    let outcomes = join_all(racing).await;
    let won = outcomes.iter().filter(|outcome| matches!(outcome, LoggedIn::LoggedIn(_))).count();
    let lost = outcomes.iter().filter(|outcome| **outcome == LoggedIn::ChallengeUsed).count();
    assert_eq!((won, lost), (1, 15), "{outcomes:?}");
    assert_eq!(ids(&engine, &phone).await.len(), 2);
}

async fn a_device_that_is_gone_gets_no_session(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    engine.deactivate(&phone, &tablet).await;
    assert_eq!(open(&engine, mothers::login(&tablet, engine.now())).await, LoggedIn::Gone);
    let again = engine.link(&phone, "tablet").await;
    assert_eq!(open(&engine, mothers::login(&tablet, engine.now())).await, LoggedIn::Gone, "the old one");
    assert_eq!(ids(&engine, &again).await.len(), 2, "the sessions of two registrations");
}

async fn a_used_challenge_is_told_of_before_a_device_that_is_gone(engine: Engine) {
    let phone = engine.newcomer().await;
    let login = mothers::login(&phone, engine.now());
    assert!(engine.store.use_once(login.challenge).await.unwrap());
    engine.deactivate(&phone, &phone).await;
    assert_eq!(open(&engine, login).await, LoggedIn::ChallengeUsed);
    let late = mothers::login(&phone, engine.now());
    assert_eq!(open(&engine, late.clone()).await, LoggedIn::Gone);
    assert!(engine.store.use_once(late.challenge).await.unwrap(), "that used nothing up");
}

async fn a_session_too_many_takes_the_place_of_the_one_refreshed_longest_ago(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let first = registration.session.clone();
    let phone = engine.register(registration).await;
    let mut others = Vec::new();
    for _ in 1..SESSIONS_PER_DEVICE {
        engine.advance(MINUTE);
        others.push(opened(&engine, &phone).await);
    }
    engine.advance(MINUTE);
    assert!(is_alive(&engine, &first).await, "the oldest one is refreshed");
    assert!(engine.revoked().await.is_empty(), "there are as many as may be");

    engine.advance(MINUTE);
    let newest = opened(&engine, &phone).await;
    assert_eq!(engine.revoked().await, [Revocation::Session(phone.device_no, others[0].session_id)]);
    let mut left = vec![first.session_id];
    left.extend(others[1..].iter().map(|session| session.session_id));
    left.push(newest.session_id);
    assert_eq!(ids(&engine, &phone).await, left);
    assert!(!is_alive(&engine, &others[0]).await);
    for session in others[1..].iter().chain([&newest]) {
        assert!(is_alive(&engine, session).await);
    }
}

async fn of_sessions_of_one_moment_the_one_opened_first_gives_way(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.advance(MINUTE);
    let mut opened_at_once = Vec::new();
    for _ in 0..2 * SESSIONS_PER_DEVICE {
        opened_at_once.push(opened(&engine, &phone).await.session_id);
    }
    let left = &opened_at_once[SESSIONS_PER_DEVICE as usize..];
    assert_eq!(ids(&engine, &phone).await, left);
    let listed = engine.sessions(phone.user_id).await;
    assert!(listed.iter().all(|session| session.created_at == engine.now()));
}

async fn the_sessions_of_one_device_take_no_place_of_anothers(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    for _ in 1..SESSIONS_PER_DEVICE {
        opened(&engine, &phone).await;
        opened(&engine, &tablet).await;
    }
    assert!(engine.revoked().await.is_empty());
    assert_eq!(ids(&engine, &phone).await.len(), 2 * SESSIONS_PER_DEVICE as usize);
}

async fn a_device_ends_its_own_session_once(engine: Engine) {
    let phone = engine.newcomer().await;
    let session = opened(&engine, &phone).await;
    let end = async || engine.store.end_session(phone.device_no, session.session_id, engine.now()).await;
    assert!(end().await.unwrap());
    assert!(!end().await.unwrap(), "the second time");
    assert!(!is_alive(&engine, &session).await);
    assert!(!ids(&engine, &phone).await.contains(&session.session_id));
    assert_eq!(engine.revoked().await.len(), 1);
}

async fn nobody_ends_the_session_of_another_device(engine: Engine) {
    let (phone, stranger) = (engine.newcomer().await, engine.newcomer().await);
    let tablet = engine.link(&phone, "tablet").await;
    let session = opened(&engine, &phone).await;
    for other in [&tablet, &stranger] {
        let ended = engine.store.end_session(other.device_no, session.session_id, engine.now()).await;
        assert!(!ended.unwrap());
    }
    let unknown = mothers::session(engine.now()).session_id;
    assert!(!engine.store.end_session(phone.device_no, unknown, engine.now()).await.unwrap());
    assert!(is_alive(&engine, &session).await);
    assert!(engine.revoked().await.is_empty());
}

async fn an_ended_session_is_revoked_alone(engine: Engine) {
    let phone = engine.newcomer().await;
    let (one, other) = (opened(&engine, &phone).await, opened(&engine, &phone).await);
    let later = NOON.plus(Duration::from_secs(1));
    assert!(engine.store.end_session(phone.device_no, one.session_id, NOON).await.unwrap());
    assert!(engine.store.end_session(phone.device_no, other.session_id, later).await.unwrap());
    let since = async |moment| engine.store.revocations(moment).await.unwrap();
    let revoked = |session: &NewSession| Revocation::Session(phone.device_no, session.session_id);
    let all = since(NOON).await;
    assert_eq!(all.len(), 2);
    assert!(all.contains(&revoked(&one)) && all.contains(&revoked(&other)));
    assert_eq!(since(later).await, [revoked(&other)]);
    assert!(since(later.plus(Duration::from_millis(1))).await.is_empty());
    assert_eq!(ids(&engine, &phone).await.len(), 1, "the one of its registration lives on");
}

async fn sessions_end_with_their_device(engine: Engine) {
    let phone = engine.newcomer().await;
    let tablet = engine.link(&phone, "tablet").await;
    let session = opened(&engine, &tablet).await;
    engine.deactivate(&phone, &tablet).await;
    assert!(engine.revoked().await.contains(&Revocation::Device(tablet.device_no)));
    assert!(!is_alive(&engine, &session).await);
    let ended = engine.store.end_session(tablet.device_no, session.session_id, engine.now()).await;
    assert!(!ended.unwrap());
    let sessions = engine.sessions(phone.user_id).await;
    assert!(sessions.iter().all(|session| session.device_id == phone.device_id));
    assert_eq!(sessions.len(), 1);
}

async fn sessions_are_listed_oldest_first_over_the_users_devices(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let first = registration.session.clone();
    let phone = engine.register(registration).await;
    engine.advance(MINUTE);
    let tablet = engine.link(&phone, "tablet").await;
    let of_tablet = ids(&engine, &phone).await[1];
    engine.advance(MINUTE);
    let second = opened(&engine, &phone).await;
    engine.advance(MINUTE);
    let third = opened(&engine, &tablet).await;
    engine.newcomer().await;
    assert!(is_alive(&engine, &first).await, "a refresh moves it nowhere");
    let listed = [first.session_id, of_tablet, second.session_id, third.session_id];
    assert_eq!(ids(&engine, &phone).await, listed);
    let sessions = engine.sessions(phone.user_id).await;
    let devices: Vec<_> = sessions.iter().map(|session| session.device_number).collect();
    let (one, two) = (phone.device_number, tablet.device_number);
    assert_eq!(devices, [one, two, one, two]);
    assert!(engine.sessions(mothers::user()).await.is_empty());
}

async fn a_session_is_seen_by_the_day(engine: Engine) {
    let registration = mothers::registration(mothers::user(), "phone");
    let session = registration.session.clone();
    let phone = engine.register(registration).await;
    let listed = async || engine.sessions(phone.user_id).await.remove(0);
    assert_eq!(listed().await.last_used, NOON.day());
    engine.advance(3 * DAY);
    assert!(is_alive(&engine, &session).await);
    let refreshed = listed().await;
    assert_eq!(refreshed.last_used, NOON.plus(3 * DAY).day());
    assert_eq!(refreshed.created_at, NOON);
    assert_eq!(refreshed.expires_at, NOON.plus(10 * DAY), "as the refresh said");
}

async fn a_session_that_has_ended_is_not_listed(engine: Engine) {
    let phone = engine.newcomer().await;
    engine.advance(DAY);
    let later = opened(&engine, &phone).await;
    engine.clock.set(NOON.plus(7 * DAY).minus(Duration::from_millis(1)));
    assert_eq!(ids(&engine, &phone).await.len(), 2);
    engine.clock.set(NOON.plus(7 * DAY));
    assert_eq!(ids(&engine, &phone).await, [later.session_id]);
    engine.expire_all().await;
    assert_eq!(ids(&engine, &phone).await, [later.session_id]);
    assert!(engine.revoked().await.is_empty(), "it ended by itself");
}
