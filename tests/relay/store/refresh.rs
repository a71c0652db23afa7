//! Refresh tokens that come once, twice and too late.

use std::time::Duration;

use futures_util::future::join_all;
use restante::{
    domain::{Caller, SecurityEvent, SessionId},
    store::{NewSession, Principal, REFRESH_GRACE, Revocation, Rotated, Rotation},
};

use crate::support::{
    engine::{Engine, NOON, on_both_engines},
    mothers::{self, DAY},
};

on_both_engines!(roomy =>
    each_token_is_replaced_by_its_successor,
    a_repeat_within_the_grace_gets_the_same_answer,
    a_repeat_is_answered_by_a_clock_that_lags_and_past_the_tokens_own_end,
    a_repeat_after_the_successor_was_used_is_a_reuse,
    a_repeat_after_the_grace_is_a_reuse,
    a_token_of_long_ago_is_a_reuse,
    a_reuse_ends_and_revokes_its_session_alone,
    a_token_of_no_session_is_unknown,
    a_token_that_has_ended_is_unknown,
    a_session_that_was_ended_answers_no_repeat,
    a_device_that_is_gone_refreshes_nothing,
    racing_refreshes_with_one_token_get_one_answer,
);

const INSTANT: Duration = Duration::from_millis(1);

/// A session and its tokens so far, the current one last.
struct Chain {
    device: Caller,
    session: SessionId,
    tokens: Vec<[u8; 32]>,
}

impl Chain {
    async fn begin(engine: &Engine) -> Self {
        let registration = mothers::registration(mothers::user(), "phone");
        let NewSession { session_id, refresh_hash, .. } = registration.session.clone();
        let device = engine.register(registration).await;
        Self { device, session: session_id, tokens: vec![refresh_hash] }
    }

    fn current(&self) -> [u8; 32] {
        *self.tokens.last().unwrap()
    }

    /// A rotation of the current token.
    fn rotation(&self, engine: &Engine) -> Rotation {
        mothers::rotation(self.session, self.current(), engine.now())
    }

    /// The current token comes and is replaced.
    async fn refresh(&mut self, engine: &Engine) -> Rotation {
        let rotation = self.rotation(engine);
        assert_eq!(rotate(engine, rotation.clone()).await, self.answer(engine, &rotation));
        self.tokens.push(rotation.next);
        rotation
    }

    /// What the first answer to a rotation must be.
    fn answer(&self, engine: &Engine, rotation: &Rotation) -> Rotated {
        let principal = Principal { caller: self.device.clone(), user_since: NOON };
        Rotated::Rotated { principal, at: engine.now(), expires_at: rotation.expires_at }
    }

    async fn present(&self, engine: &Engine, token: [u8; 32]) -> Rotated {
        rotate(engine, mothers::rotation(self.session, token, engine.now())).await
    }

    /// The session is over: no token of it is worth anything, its end was entered and it is revoked.
    async fn assert_ended_by_reuse(&self, engine: &Engine) {
        for token in &self.tokens {
            assert_eq!(self.present(engine, *token).await, Rotated::Unknown);
        }
        assert_eq!(engine.revoked().await, [Revocation::Session(self.device.device_no, self.session)]);
        let newest = engine.audit(self.device.user_id).await.remove(0);
        assert_eq!(newest.event, SecurityEvent::TokenReused);
        assert_eq!(newest.device_number, Some(self.device.device_number));
    }
}

async fn rotate(engine: &Engine, rotation: Rotation) -> Rotated {
    engine.store.rotate_session(rotation, engine.now()).await.unwrap()
}

async fn each_token_is_replaced_by_its_successor(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    for _ in 0..5 {
        engine.advance(DAY);
        chain.refresh(&engine).await;
    }
    let sessions = engine.sessions(chain.device.user_id).await;
    assert_eq!(sessions.len(), 1, "one session all the time");
    assert_eq!(sessions[0].session_id, chain.session);
    assert!(engine.revoked().await.is_empty());
}

async fn a_repeat_within_the_grace_gets_the_same_answer(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    engine.advance(DAY);
    let first = chain.refresh(&engine).await;
    let answer = chain.answer(&engine, &first);
    let at = engine.now();
    for moment in [at, at.plus(REFRESH_GRACE / 2), at.plus(REFRESH_GRACE).minus(INSTANT)] {
        engine.clock.set(moment);
        let repeat = Rotation { expires_at: engine.now().plus(7 * DAY), ..first.clone() };
        assert_eq!(rotate(&engine, repeat).await, answer, "as of the first time");
    }
    assert_eq!(engine.sessions(chain.device.user_id).await[0].expires_at, first.expires_at);
    chain.refresh(&engine).await;
    assert!(engine.revoked().await.is_empty());
}

async fn a_repeat_is_answered_by_a_clock_that_lags_and_past_the_tokens_own_end(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    engine.clock.set(NOON.plus(7 * DAY).minus(INSTANT));
    let first = chain.refresh(&engine).await;
    let answer = chain.answer(&engine, &first);
    let at = engine.now();
    for moment in [at.minus(Duration::from_secs(3)), at.plus(Duration::from_secs(30))] {
        engine.clock.set(moment);
        assert_eq!(rotate(&engine, first.clone()).await, answer);
    }
    chain.refresh(&engine).await;
}

async fn a_repeat_after_the_successor_was_used_is_a_reuse(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    chain.refresh(&engine).await;
    engine.advance(Duration::from_secs(1));
    chain.refresh(&engine).await;
    let reused = chain.present(&engine, chain.tokens[0]).await;
    assert_eq!(reused, Rotated::Reused(chain.device.device_no));
    chain.assert_ended_by_reuse(&engine).await;
}

async fn a_repeat_after_the_grace_is_a_reuse(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    chain.refresh(&engine).await;
    engine.advance(REFRESH_GRACE + INSTANT);
    let reused = chain.present(&engine, chain.tokens[0]).await;
    assert_eq!(reused, Rotated::Reused(chain.device.device_no));
    chain.assert_ended_by_reuse(&engine).await;
}

async fn a_token_of_long_ago_is_a_reuse(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    for _ in 0..12 {
        engine.advance(Duration::from_mins(10));
        chain.refresh(&engine).await;
    }
    let reused = chain.present(&engine, chain.tokens[0]).await;
    assert_eq!(reused, Rotated::Reused(chain.device.device_no));
    chain.assert_ended_by_reuse(&engine).await;
}

async fn a_reuse_ends_and_revokes_its_session_alone(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    let login = mothers::login(&chain.device, engine.now());
    let other = login.session.clone();
    engine.store.open_session(login, engine.now()).await.unwrap();
    let first = chain.refresh(&engine).await;
    chain.refresh(&engine).await;
    let later = engine.now().plus(Duration::from_secs(5));
    engine.clock.set(later);
    assert_eq!(rotate(&engine, first).await, Rotated::Reused(chain.device.device_no));
    let revoked = [Revocation::Session(chain.device.device_no, chain.session)];
    assert_eq!(engine.store.revocations(later).await.unwrap(), revoked);
    chain.assert_ended_by_reuse(&engine).await;

    let sessions = engine.sessions(chain.device.user_id).await;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].session_id, other.session_id);
    let tokens = vec![other.refresh_hash];
    Chain { session: other.session_id, tokens, ..chain }.refresh(&engine).await;
}

async fn a_token_of_no_session_is_unknown(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    chain.refresh(&engine).await;
    for token in &chain.tokens {
        let nowhere = mothers::rotation(mothers::session(NOON).session_id, *token, engine.now());
        assert_eq!(rotate(&engine, nowhere).await, Rotated::Unknown);
    }
    assert!(engine.revoked().await.is_empty());
    chain.refresh(&engine).await;
    assert_eq!(engine.audit(chain.device.user_id).await.len(), 1, "its registration alone");
}

async fn a_token_that_has_ended_is_unknown(engine: Engine) {
    let (chain, mut punctual) = (Chain::begin(&engine).await, Chain::begin(&engine).await);
    engine.clock.set(NOON.plus(7 * DAY).minus(INSTANT));
    punctual.refresh(&engine).await;
    engine.clock.set(NOON.plus(7 * DAY));
    assert_eq!(rotate(&engine, chain.rotation(&engine)).await, Rotated::Unknown);
    engine.expire_all().await;
    assert_eq!(rotate(&engine, chain.rotation(&engine)).await, Rotated::Unknown);
    assert!(engine.revoked().await.is_empty());
    assert_eq!(engine.audit(chain.device.user_id).await.len(), 1, "its registration alone");
}

async fn a_session_that_was_ended_answers_no_repeat(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    let first = chain.refresh(&engine).await;
    let ended = engine.store.end_session(chain.device.device_no, chain.session, engine.now()).await;
    assert!(ended.unwrap());
    assert_eq!(rotate(&engine, first).await, Rotated::Unknown);
    assert_eq!(rotate(&engine, chain.rotation(&engine)).await, Rotated::Unknown);
    assert_eq!(engine.revoked().await.len(), 1);
    let newest = engine.audit(chain.device.user_id).await.remove(0);
    assert_eq!(newest.event, SecurityEvent::LoggedOut, "no reuse");
}

async fn a_device_that_is_gone_refreshes_nothing(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    let first = chain.refresh(&engine).await;
    engine.deactivate(&chain.device, &chain.device).await;
    assert_eq!(rotate(&engine, first).await, Rotated::Unknown);
    assert_eq!(rotate(&engine, chain.rotation(&engine)).await, Rotated::Unknown);
    assert_eq!(engine.revoked().await, [Revocation::Device(chain.device.device_no)]);
}

async fn racing_refreshes_with_one_token_get_one_answer(engine: Engine) {
    let mut chain = Chain::begin(&engine).await;
    for _ in 0..4 {
        engine.advance(Duration::from_mins(15));
        // A successor is derived from the token, so those who race bring the same one.
        let rotation = chain.rotation(&engine);
        let answers = join_all((0..16).map(|_| rotate(&engine, rotation.clone()))).await;
        let expected = chain.answer(&engine, &rotation);
        assert!(answers.iter().all(|answer| *answer == expected), "{answers:?}");
        chain.tokens.push(rotation.next);
    }
    chain.refresh(&engine).await;
    assert!(engine.revoked().await.is_empty());
}
