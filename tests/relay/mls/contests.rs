//! Two commits for one epoch, over two nodes; relays that are killed; lost answers.

use serde_json::Value;

use super::party::{Party, all_agree};
use crate::support::{
    mls::{Change, LIBRARIES, Manner},
    process::RelayProcess,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    of_two_commits_for_one_epoch_one_is_taken,
    a_repeated_commit_gets_the_first_answer,
    a_killed_relay_leaves_group_and_log_in_agreement,
}

const ROUNDS: usize = 25;

async fn of_two_commits_for_one_epoch_one_is_taken(backend: &Backend) {
    let relays =
        if backend.is_production() { backend.cluster(2, &[]).await } else { vec![backend.relay(&[]).await] };
    let manner = Manner::default();
    let mut a = Party::new(&relays[0].url(), LIBRARIES[0], manner).await;
    let mut b = Party::new(&relays[relays.len() - 1].url(), LIBRARIES[1], manner).await;
    a.found("resync").await;
    a.add(&[b.device.user_id]).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
    for round in 0..ROUNDS {
        let (first, second) = (a.mls.commit(Change::Update), b.mls.commit(Change::Update));
        let (first, second) = (Party::body_of(&first), Party::body_of(&second));
        let epoch = a.mls.epoch();
        let (one, other) = tokio::join!(a.publish(&first), b.publish(&second));
        let mut statuses = [one.status, other.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "round {round}: {one:?} {other:?}");
        let loser = if one.status == 409 { &one } else { &other };
        assert_eq!((loser.code(), &loser["current_epoch"]), ("stale-epoch", &Value::from(epoch + 1)));
        all_agree(&mut [&mut a, &mut b]).await;
    }
}

async fn a_repeated_commit_gets_the_first_answer(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let mut a = Party::new(&relay.url(), LIBRARIES[0], Manner::default()).await;
    let mut b = Party::new(&relay.url(), LIBRARIES[1], Manner::default()).await;
    a.found("resync").await;
    a.add(&[b.device.user_id]).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
    let bundle = a.mls.commit(Change::Update);
    let body = Party::body_of(&bundle);
    let path = a.path(&format!("commits/{}", a.device.user_id));
    let first = a.device.post(&path, &body).await.is(200);
    assert_eq!(a.device.post(&path, &body).await.is(200), first);
    a.mls.accepted();
    b.catch_up().await;
    b.commit(Change::Update).await.is(200);
    assert_eq!(a.device.post(&path, &body).await.is(200), first, "also in a later epoch");
    let theirs = b.path(&format!("commits/{}", b.device.user_id));
    b.device.post(&theirs, &body).await.refused(409, "stale-epoch");
    all_agree(&mut [&mut a, &mut b]).await;
}

/// Commits and messages go on while the relay is killed at random moments; each is repeated until it is answered.
async fn a_killed_relay_leaves_group_and_log_in_agreement(backend: &Backend) {
    let mut relay = RelayProcess::start(backend, &[]).await;
    let mut a = Party::new(&relay.url(), LIBRARIES[0], Manner::default()).await;
    let mut b = Party::new(&relay.url(), LIBRARIES[1], Manner::default()).await;
    a.found("resync").await;
    a.add(&[b.device.user_id]).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
    for round in 0..12_u64 {
        let bundle = a.mls.commit(Change::Update);
        let body = Party::body_of(&bundle);
        let path = a.path(&format!("commits/{}", a.device.user_id));
        let sending = tokio::spawn(
            a.device
                .request(reqwest::Method::POST, &path)
                .bearer_auth(&a.device.access_token)
                .json(&body)
                .send(),
        );
        tokio::time::sleep(std::time::Duration::from_millis(round * 4)).await;
        relay.kill().await;
        drop(sending.await);
        relay.restart().await;
        // Answered or not, committed or not: the same bytes are taken once.
        let answer = a.device.post(&path, &body).await.is(200);
        assert_eq!(answer["epoch"].as_u64().unwrap(), a.mls.epoch() + 1);
        a.mls.accepted();
        all_agree(&mut [&mut a, &mut b]).await;
        a.say(b"after").await.is(201);
        b.catch_up().await;
        assert_eq!(b.read.len() as u64, round + 1);
    }
}
