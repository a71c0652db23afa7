//! What happens at the same moment, on one node and on two, and what a restart must not undo.

use futures_util::future::{join, join_all};
use serde_json::Value;

use super::{host::Host, jwt};
use crate::support::{
    client::{Answer, Device, Kind},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_login_that_meets_a_deactivation_leaves_nothing_alive,
    a_refresh_that_meets_a_logout_leaves_nothing_alive,
    old_and_new_refresh_tokens_at_once_never_fork_a_session,
    logins_at_once_leave_ten_sessions,
    a_link_token_links_one_of_those_who_come_at_once,
    a_user_comes_back_once_of_those_who_try_at_once,
    what_was_ended_stays_ended_over_a_restart,
}

/// The tokens of those answers that gave some.
fn given(answers: &[Answer]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let good = answers.iter().filter(|answer| matches!(answer.status, 200 | 201));
    good.map(|answer| (text(&answer["access_token"]), text(&answer["refresh_token"]))).collect()
}

async fn all_dead(device: &Device, tokens: &[(String, String)]) {
    for (access, refresh) in tokens {
        device.stats_as(access).await.refused(401, "bad-token");
        assert_eq!(device.show(refresh).await.status, 401);
    }
}

async fn a_login_that_meets_a_deactivation_leaves_nothing_alive(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    for _ in 0..5 {
        let laptop = alice.linked("laptop").await;
        let logins = join_all((0..8).map(|_| async { laptop.login(&laptop.challenge().await) })).await;
        let answering = join_all(logins.iter().map(|login| laptop.answer(login)));
        let (answers, ended) = join(answering, alice.deactivate(&laptop)).await;
        ended.is(200);
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!((answer.status, answer.code()), (401, "bad-proof"), "{answer:?}");
        }
        all_dead(&laptop, &given(&answers)).await;
        assert_eq!(alice.sessions().await.len(), 1);
    }
}

async fn a_refresh_that_meets_a_logout_leaves_nothing_alive(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    for _ in 0..5 {
        let refreshing = join_all((0..8).map(|_| alice.show(&alice.refresh_token)));
        let (answers, ended) = join(refreshing, alice.log_out(&alice.access_token)).await;
        ended.is(204);
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            assert_eq!((answer.status, answer.code()), (401, "bad-token"), "{answer:?}");
        }
        all_dead(&alice, &given(&answers)).await;
        alice.log_in().await;
    }
    assert_eq!(alice.sessions().await.len(), 1);
}

async fn old_and_new_refresh_tokens_at_once_never_fork_a_session(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    for _ in 0..5 {
        let old = alice.refresh_token.clone();
        let first = given(&[alice.show(&old).await]).remove(0).1;
        let shown: Vec<_> = [&old, &first].into_iter().cycle().take(16).collect();
        let answers = join_all(shown.iter().map(|token| alice.show(token))).await;
        for answer in answers.iter().filter(|answer| answer.status != 200) {
            assert!(matches!(answer.code(), "token-reused" | "bad-token"), "{answer:?}");
        }
        // Whatever came first: an old token after its successor's use ends everything that was given.
        alice.show(&first).await;
        assert_eq!(alice.show(&old).await.status, 401);
        all_dead(&alice, &given(&answers)).await;
        alice.log_in().await;
        assert_eq!(alice.sessions().await.len(), 1);
    }
}

async fn logins_at_once_leave_ten_sessions(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let logins = join_all((0..24).map(|_| async { alice.login(&alice.challenge().await) })).await;
    for answer in join_all(logins.iter().map(|login| alice.answer(login))).await {
        answer.is(200);
    }
    let last = alice.answer(&alice.login(&alice.challenge().await)).await;
    let (access, _) = given(&[last]).remove(0);
    let sessions = alice.call_as(&access, reqwest::Method::GET, "/api/v1/auth/sessions", None).await.is(200);
    assert_eq!(sessions["count"], 10);
}

async fn a_link_token_links_one_of_those_who_come_at_once(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut laptop = Device::of(&relay.url(), alice.user_id, "laptop", Kind::Ed25519);
    let token = alice.vouch_for(&laptop).await.is(201)["link_token"].clone();
    let mut body = laptop.registration();
    body["link_token"] = token;
    let path = format!("/api/v1/keys/register/{}", alice.user_id);
    let answers = join_all((0..8).map(|_| laptop.anonymous(reqwest::Method::POST, &path, Some(&body)))).await;
    assert_eq!(given(&answers).len(), 1, "{answers:?}");
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        assert_eq!((answer.status, answer.code()), (409, "device-exists"), "{answer:?}");
    }
    assert_eq!(alice.sessions().await.len(), 2);
}

async fn a_user_comes_back_once_of_those_who_try_at_once(backend: &Backend) {
    let host = Host::new();
    let (relay, _clock) = backend.relay_at_noon(&[("ADMISSION_KEY", &jwt::pem(&host.key))]).await;
    for by_host in [false, true] {
        let alice = Device::registered(&relay, Kind::Ed25519).await;
        alice.deactivate(&alice).await.is(200);
        let admission = host.bring_back(alice.user_id);
        let back = async |device_id: String| {
            let mut device = Device::of(&relay.url(), alice.user_id, &device_id, Kind::Ed25519);
            if by_host {
                let body = device.registration();
                device.register_by(&admission, &body).await
            } else {
                let body = alice.recovery_of(&mut device);
                device.register(&body).await
            }
        };
        let answers = join_all((0..8).map(|number| back(format!("phone{number}")))).await;
        assert_eq!(given(&answers).len(), 1, "{answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            let expected: &[&str] =
                if by_host { &["link-required", "admission-used"] } else { &["link-required"] };
            assert!(answer.status == 403 && expected.contains(&answer.code()), "{answer:?}");
        }
    }
}

async fn what_was_ended_stays_ended_over_a_restart(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let mut laptop = alice.linked("laptop").await;
    let mut gone = alice.linked("tablet").await;
    let logged_out = (alice.access_token.clone(), alice.refresh_token.clone());
    alice.log_in().await;
    alice.log_out(&logged_out.0).await.is(204);
    alice.deactivate(&gone).await.is(200);
    let reused = laptop.refresh_token.clone();
    laptop.refresh().await;
    laptop.refresh().await;
    laptop.show(&reused).await.refused(401, "token-reused");
    let used = alice.login(&alice.challenge().await);
    alice.answer(&used).await.is(200);
    let unused = alice.login(&alice.challenge().await);
    relay.stop().await;

    let relay = backend.relay(&[]).await;
    for device in [&mut alice, &mut laptop, &mut gone] {
        device.base = relay.url();
    }
    // At once: nothing ended may live until somebody has read about it.
    gone.stats_as(&gone.access_token).await.refused(401, "bad-token");
    all_dead(&alice, &[logged_out]).await;
    all_dead(&laptop, &[(laptop.access_token.clone(), laptop.refresh_token.clone())]).await;
    alice.answer(&used).await.refused(401, "bad-proof");
    alice.answer(&unused).await.is(200);
    alice.is_alive().await;
    alice.refresh().await;
    laptop.log_in().await;
    laptop.is_alive().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_are_one_relay_to_logins() {
    let Some(backend) = Backend::production().await else { return };
    let nodes = backend.cluster(2, &[]).await;
    let here = Device::registered(&nodes[0], Kind::Signal).await;
    let there = Device::of(&nodes[1].url(), here.user_id, &here.device_id, Kind::Signal);
    let everywhere = || [&here, &there].into_iter().cycle().take(16);

    let challenge = here.challenge().await;
    let logins: Vec<_> = (0..16).map(|_| here.login(&challenge)).collect();
    let answers = join_all(everywhere().zip(&logins).map(|(node, login)| node.answer(login))).await;
    assert_eq!(given(&answers).len(), 1, "{answers:?}");
    there.stats_as(&here.access_token).await.is(200);

    let answers = join_all(everywhere().map(|node| node.show(&here.refresh_token))).await;
    let pairs = given(&answers);
    assert_eq!(pairs.len(), 16, "{answers:?}");
    assert!(pairs.iter().all(|pair| *pair == pairs[0]), "one answer, whoever gives it");
    there.show(&pairs[0].1).await.is(200);
    here.show(&here.refresh_token).await.refused(401, "token-reused");
    backend.finish().await;
}
