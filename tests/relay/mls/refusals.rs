//! What the relay refuses from real clients: each beside what it takes, and nothing is changed.

use serde_json::{Value, json};

use super::party::{Party, all_agree};
use crate::support::{
    client::Answer,
    crypto::{b64, unb64},
    mls::{Change, LIBRARIES, Manner},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_commit_whose_bytes_were_bent_is_refused,
    a_group_info_whose_bytes_were_bent_is_refused,
    a_welcome_must_be_for_exactly_those_who_are_added,
    a_key_package_enters_one_group_once,
    a_commit_is_no_message_and_a_message_no_commit,
    strangers_and_removed_members_find_no_group,
    members_may_not_do_what_admins_may,
    a_commit_for_another_group_is_refused,
}

async fn pair(url: &str) -> (Party, Party) {
    let mut a = Party::new(url, LIBRARIES[0], Manner::default()).await;
    let mut b = Party::new(url, LIBRARIES[1], Manner::default()).await;
    a.found("resync").await;
    a.add(&[b.device.user_id]).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
    (a, b)
}

async fn post_commit(party: &Party, body: &Value) -> Answer {
    party.device.post(&party.path(&format!("commits/{}", party.device.user_id)), body).await
}

/// What the group looks like from outside, to compare.
async fn picture(party: &Party) -> (Value, Value, Value) {
    let group = party.device.get(&format!("/api/v1/groups/{}", party.group)).await.is(200);
    let members = party.device.get(&party.path("members")).await.is(200);
    let log = party.device.get(&party.path("messages?limit=100")).await.is(200);
    (group, members, log)
}

fn bent(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    bytes
}

async fn a_commit_whose_bytes_were_bent_is_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut a, mut b) = pair(&relay.url()).await;
    let bundle = a.mls.commit(Change::Update);
    let before = picture(&b).await;
    // The last bytes are the confirmation tag and the membership tag; the rest is signed.
    let step = (bundle.commit.len() / 60).max(1);
    let last = bundle.commit.len() - 80;
    for at in (0..last).step_by(step).chain(last..bundle.commit.len() - 33) {
        let mut body = Party::body_of(&bundle);
        body["commit"] = b64(bent(&bundle.commit, at)).into();
        let answer = post_commit(&a, &body).await;
        assert!((400..500).contains(&answer.status), "byte {at}: {answer:?}");
    }
    assert_eq!(picture(&b).await, before);
    let body = Party::body_of(&bundle);
    a.publish(&body).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
}

async fn a_group_info_whose_bytes_were_bent_is_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut a, mut b) = pair(&relay.url()).await;
    let bundle = a.mls.commit(Change::Update);
    let before = picture(&b).await;
    for at in 0..bundle.group_info.len() {
        let mut body = Party::body_of(&bundle);
        body["group_info"] = b64(bent(&bundle.group_info, at)).into();
        let answer = post_commit(&a, &body).await;
        assert!((400..500).contains(&answer.status), "byte {at}: {answer:?}");
    }
    let other = b.mls.commit(Change::Update);
    let mut body = Party::body_of(&bundle);
    body["group_info"] = b64(&other.group_info).into();
    post_commit(&a, &body).await.refused(422, "bad-group-info");
    body.as_object_mut().unwrap().remove("group_info");
    assert_eq!(post_commit(&a, &body).await.status, 400);
    b.mls.refused();
    assert_eq!(picture(&b).await, before);
    let body = Party::body_of(&bundle);
    a.publish(&body).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
}

async fn a_welcome_must_be_for_exactly_those_who_are_added(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut a, mut b) = pair(&relay.url()).await;
    let mut c = Party::new(&relay.url(), LIBRARIES[0], Manner::default()).await;
    let mut d = Party::new(&relay.url(), LIBRARIES[1], Manner::default()).await;
    let (mut other, _) = pair(&relay.url()).await;
    let packages = other.claim(d.device.user_id).await;
    let foreign = other.mls.commit(Change::Add(packages)).welcome.unwrap();
    let before = picture(&b).await;
    let packages = a.claim(c.device.user_id).await;
    let bundle = a.mls.commit(Change::Add(packages));
    let good = Party::body_of(&bundle);
    let mut without = good.clone();
    without.as_object_mut().unwrap().remove("welcome");
    post_commit(&a, &without).await.refused(422, "welcome-mismatch");
    let mut with_foreign = good.clone();
    with_foreign["welcome"] = b64(&foreign).into();
    post_commit(&a, &with_foreign).await.refused(422, "welcome-mismatch");
    assert_eq!(picture(&b).await, before);
    a.publish(&good).await.is(200);
    all_agree(&mut [&mut a, &mut b, &mut c]).await;
    let update = a.mls.commit(Change::Update);
    let mut superfluous = Party::body_of(&update);
    superfluous["welcome"] = b64(&foreign).into();
    post_commit(&a, &superfluous).await.refused(422, "welcome-mismatch");
    let body = Party::body_of(&update);
    a.publish(&body).await.is(200);
    all_agree(&mut [&mut a, &mut b, &mut c]).await;
    d.catch_up().await;
    assert!(d.group.is_nil(), "no Welcome came to the bystander");
}

async fn a_key_package_enters_one_group_once(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut a, mut b) = pair(&relay.url()).await;
    let (mut other, _) = pair(&relay.url()).await;
    let mut c = Party::new(&relay.url(), LIBRARIES[1], Manner::default()).await;
    let packages = a.claim(c.device.user_id).await;
    a.commit(Change::Add(packages.clone())).await.is(200);
    other.commit(Change::Add(packages)).await.refused(422, "package-used");
    let unclaimed = c.mls.key_package(false);
    other.commit(Change::Add(vec![unclaimed])).await.refused(422, "package-used");
    all_agree(&mut [&mut a, &mut b, &mut c]).await;
}

async fn a_commit_is_no_message_and_a_message_no_commit(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut a, mut b) = pair(&relay.url()).await;
    let bundle = a.mls.commit(Change::Update);
    let send = a.path(&format!("send/{}", a.device.user_id));
    let sent = a.device.post(&send, &json!({"ciphertext": b64(&bundle.commit)})).await;
    assert_eq!(sent.status, 422, "{sent:?}");
    let good = Party::body_of(&bundle);
    let sealed = b.mls.seal(b"text");
    let mut message = good.clone();
    message["commit"] = b64(&sealed).into();
    assert_eq!(post_commit(&a, &message).await.status, 422);
    a.publish(&good).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
}

async fn strangers_and_removed_members_find_no_group(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut a, b) = pair(&relay.url()).await;
    let mut stranger = Party::new(&relay.url(), LIBRARIES[0], Manner::default()).await;
    stranger.group = a.group;
    a.remove(&b).await.is(200);
    let bundle = a.mls.commit(Change::Update);
    for outsider in [&stranger, &b] {
        for what in ["", "members", "info", "tree", "tree?epoch=2", "invites"] {
            let path = format!("/api/v1/groups/{}/{what}", a.group);
            let answer = outsider.device.get(path.trim_end_matches('/')).await;
            assert_eq!((answer.status, answer.code()), (404, "not-found"), "{what}: {answer:?}");
        }
        post_commit(outsider, &Party::body_of(&bundle)).await.refused(404, "not-found");
    }
    stranger.device.get(&stranger.path("tree?epoch=1")).await.refused(404, "not-found");
    // It may still have to open its Welcome.
    b.device.get(&b.path("tree?epoch=1")).await.is(200);
    stranger.device.get(&stranger.path("messages")).await.refused(404, "not-found");
    let own = b.device.get(&b.path("messages?limit=100")).await.is(200);
    let last = own["entries"].as_array().unwrap().last().unwrap();
    assert_eq!(last["kind"], "commit", "up to and including its removal");
    assert!(!unb64(&last["ciphertext"]).is_empty());
}

async fn members_may_not_do_what_admins_may(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut a, mut b) = pair(&relay.url()).await;
    let mut c = Party::new(&relay.url(), LIBRARIES[0], Manner::default()).await;
    b.add(&[c.device.user_id]).await.refused(422, "proposal-not-allowed");
    b.remove(&a).await.refused(422, "proposal-not-allowed");
    let role = a.path(&format!("roles/{}", b.device.user_id));
    b.device.put(&role, Some(&json!({"role": "admin"}))).await.refused(403, "not-allowed");
    a.device.put(&role, Some(&json!({"role": "admin"}))).await.is(200);
    b.add(&[c.device.user_id]).await.is(200);
    all_agree(&mut [&mut a, &mut b, &mut c]).await;
    b.remove(&a).await.refused(422, "proposal-not-allowed");
    b.remove(&c).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
}

async fn a_commit_for_another_group_is_refused(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (mut a, _b) = pair(&relay.url()).await;
    let first = a.group;
    let bundle = a.mls.commit(Change::Update);
    let body = Party::body_of(&bundle);
    a.mls.refused();
    let mut again = Party::with(a.device, LIBRARIES[0], Manner::default()).await;
    again.found("none").await;
    assert_ne!(again.group, first);
    let answer = post_commit(&again, &body).await;
    assert_eq!(answer.status, 422, "{answer:?}");
}
