//! What works once.

use std::time::Duration;

use futures_util::future::join_all;
use restante::store::{LoggedIn, Login, SingleUse};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers,
};

on_both_engines!(roomy =>
    a_token_works_once,
    of_racing_uses_one_wins,
    a_used_token_is_remembered_for_5_minutes_past_its_end_and_then_forgotten,
    an_answered_challenge_is_remembered_as_long,
);

const INSTANT: Duration = Duration::from_millis(1);
const SLACK: Duration = Duration::from_mins(5);

async fn a_token_works_once(engine: Engine) {
    let (one, other) = (mothers::single_use(NOON), mothers::single_use(NOON));
    assert!(engine.store.use_once(one).await.unwrap());
    assert!(engine.store.use_once(other).await.unwrap());
    assert!(!engine.store.use_once(one).await.unwrap());
    let later = SingleUse { expires_at: one.expires_at.plus(SLACK), ..one };
    assert!(!engine.store.use_once(later).await.unwrap(), "whatever end it is said to have");
}

async fn of_racing_uses_one_wins(engine: Engine) {
    for _ in 0..8 {
        let token = mothers::single_use(NOON);
        let uses = join_all((0..16).map(|_| engine.store.use_once(token))).await;
        assert_eq!(uses.into_iter().filter(|used| *used.as_ref().unwrap()).count(), 1);
    }
}

async fn a_used_token_is_remembered_for_5_minutes_past_its_end_and_then_forgotten(engine: Engine) {
    let token = mothers::single_use(NOON);
    assert!(engine.store.use_once(token).await.unwrap());
    engine.clock.set(token.expires_at.plus(SLACK).minus(INSTANT));
    engine.expire_all().await;
    assert!(!engine.store.use_once(token).await.unwrap());
    engine.clock.set(token.expires_at.plus(SLACK + INSTANT));
    assert_eq!(engine.store.expire(engine.now(), 10).await.unwrap().forgotten, 1);
    assert!(engine.store.use_once(token).await.unwrap(), "nothing of it is left");
}

async fn an_answered_challenge_is_remembered_as_long(engine: Engine) {
    let phone = engine.newcomer().await;
    let login = mothers::login(&phone, engine.now());
    let challenge = login.challenge;
    engine.store.open_session(login, engine.now()).await.unwrap();
    engine.clock.set(challenge.expires_at.plus(SLACK).minus(INSTANT));
    engine.expire_all().await;
    let again = Login { challenge, ..mothers::login(&phone, engine.now()) };
    let outcome = engine.store.open_session(again, engine.now()).await.unwrap();
    assert_eq!(outcome, LoggedIn::ChallengeUsed);
    engine.clock.set(challenge.expires_at.plus(SLACK + INSTANT));
    assert_eq!(engine.store.expire(engine.now(), 10).await.unwrap().forgotten, 1);
}
