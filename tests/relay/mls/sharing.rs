//! Groups of openmls and mls-rs clients through the relay.

use serde_json::json;
use uuid::Uuid;

use super::party::{Party, all_agree};
use crate::support::{
    crypto::b64,
    mls::{Change, LIBRARIES, Manner, mls_rs, openmls, ts_mls, ts_mls_is_installed},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    clients_of_both_libraries_share_a_public_group,
    clients_of_both_libraries_share_a_private_group,
    a_group_is_filled_in_the_act_that_makes_it,
    a_member_that_was_away_follows_several_epochs,
    a_device_that_lost_its_state_comes_back_into_its_own_leaf,
    a_second_device_joins_by_itself_where_siblings_may,
    a_stranger_joins_by_a_token_and_not_without,
    a_member_leaves_and_the_next_commit_takes_it_out,
    a_group_is_made_anew_under_its_id,
    every_suite_works,
    all_three_libraries_share_a_group_without_external_joins,
}

/// A founder and two members, one of each library at least; `external_join` is `resync`.
async fn trio(backend_url: &str, manner: Manner, founder: usize, external_join: &str) -> [Party; 3] {
    let mut parties = [
        Party::new(backend_url, LIBRARIES[founder], manner).await,
        Party::new(backend_url, LIBRARIES[0], manner).await,
        Party::new(backend_url, LIBRARIES[1], manner).await,
    ];
    parties[0].found(external_join).await;
    let others = [parties[1].device.user_id, parties[2].device.user_id];
    parties[0].add(&others).await.is(200);
    let [a, b, c] = &mut parties;
    all_agree(&mut [a, b, c]).await;
    parties
}

async fn talk(parties: &mut [&mut Party]) {
    for from in 0..parties.len() {
        let text = Uuid::new_v4().into_bytes();
        parties[from].say(&text).await.is(201);
        for (to, party) in parties.iter_mut().enumerate() {
            party.catch_up().await;
            assert_eq!(party.read.last().is_some_and(|read| *read == text), to != from);
        }
    }
}

async fn share(backend: &Backend, private: bool) {
    let relay = backend.relay(&[]).await;
    for founder in 0..2 {
        let manner = Manner { private, ..Manner::default() };
        let [mut a, mut b, mut c] = trio(&relay.url(), manner, founder, "resync").await;
        talk(&mut [&mut a, &mut b, &mut c]).await;
        for committer in 0..3 {
            [&mut a, &mut b, &mut c][committer].commit(Change::Update).await.is(200);
            all_agree(&mut [&mut a, &mut b, &mut c]).await;
        }
        a.remove(&c).await.is(200);
        c.catch_up().await;
        assert!(c.removed);
        all_agree(&mut [&mut a, &mut b]).await;
        talk(&mut [&mut a, &mut b]).await;
        let end = c.position;
        c.catch_up().await;
        assert_eq!(c.position, end, "nothing comes after the removal");
        let sealed = json!({"ciphertext": b64(b.mls.seal(b"x"))});
        c.device
            .post(&c.path(&format!("send/{}", c.device.user_id)), &sealed)
            .await
            .refused(404, "not-found");
    }
}

async fn clients_of_both_libraries_share_a_public_group(backend: &Backend) {
    share(backend, false).await;
}

async fn clients_of_both_libraries_share_a_private_group(backend: &Backend) {
    share(backend, true).await;
}

async fn a_group_is_filled_in_the_act_that_makes_it(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for library in LIBRARIES {
        let manner = Manner::default();
        let mut a = Party::new(&relay.url(), library, manner).await;
        let mut b = Party::new(&relay.url(), LIBRARIES[0], manner).await;
        let mut c = Party::new(&relay.url(), LIBRARIES[1], manner).await;
        a.group = Uuid::new_v4();
        let made = a.mls.create(a.group);
        let packages = [a.claim(b.device.user_id).await, a.claim(c.device.user_id).await].concat();
        let bundle = a.mls.commit(Change::Add(packages));
        let body = json!({
            "group_id": a.group,
            "group_info": b64(&made.group_info),
            "ratchet_tree": b64(&made.tree),
            "commit": b64(&bundle.commit),
            "welcome": b64(bundle.welcome.as_ref().unwrap()),
            "commit_group_info": b64(&bundle.group_info),
        });
        let path = format!("/api/v1/groups/create/{}", a.device.user_id);
        let group = a.device.post(&path, &body).await.is(201);
        assert_eq!((&group["current_epoch"], &group["member_count"]), (&json!(1), &json!(3)));
        let again = a.device.post(&path, &body).await.is(200);
        assert_eq!(again["current_epoch"], 1, "a lost answer may be asked for again");
        a.mls.accepted();
        all_agree(&mut [&mut a, &mut b, &mut c]).await;
        talk(&mut [&mut a, &mut b, &mut c]).await;
    }
}

async fn a_member_that_was_away_follows_several_epochs(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let [mut a, mut b, mut c] = trio(&relay.url(), Manner::default(), 0, "resync").await;
    for round in 0..6 {
        let (active, other) = if round % 2 == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
        active.commit(Change::Update).await.is(200);
        active.say(format!("round {round}").as_bytes()).await.is(201);
        other.catch_up().await;
    }
    c.catch_up().await;
    let expected: Vec<_> = (0..6).map(|round| format!("round {round}").into_bytes()).collect();
    assert_eq!(c.read, expected);
    all_agree(&mut [&mut a, &mut b, &mut c]).await;
}

async fn a_device_that_lost_its_state_comes_back_into_its_own_leaf(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for lost in [1, 2] {
        let [mut a, mut b, mut c] = trio(&relay.url(), Manner::default(), 0, "resync").await;
        let group = a.group;
        let party = if lost == 1 { &mut b } else { &mut c };
        party.join_externally(group, None).await.is(200);
        all_agree(&mut [&mut a, &mut b, &mut c]).await;
        assert_eq!(a.mls.members().len(), 3);
        talk(&mut [&mut a, &mut b, &mut c]).await;
    }
}

async fn a_second_device_joins_by_itself_where_siblings_may(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for (policy, may) in [("siblings", true), ("resync", false)] {
        let [mut a, mut b, mut c] = trio(&relay.url(), Manner::default(), 1, policy).await;
        let laptop = b.device.linked("laptop").await;
        let mut laptop = Party::with(laptop, LIBRARIES[1], Manner::default()).await;
        laptop.group = a.group;
        if !may {
            laptop.device.get(&laptop.path("info")).await.refused(404, "not-found");
            continue;
        }
        laptop.join_externally(a.group, None).await.is(200);
        all_agree(&mut [&mut a, &mut b, &mut c, &mut laptop]).await;
        talk(&mut [&mut a, &mut b, &mut c, &mut laptop]).await;
    }
}

async fn a_stranger_joins_by_a_token_and_not_without(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let [mut a, mut b, mut c] = trio(&relay.url(), Manner::default(), 0, "token").await;
    let mut d = Party::new(&relay.url(), LIBRARIES[1], Manner::default()).await;
    d.group = a.group;
    d.device.get(&d.path("info")).await.refused(404, "not-found");
    let invite = a.device.post(&a.path("invites"), &json!({})).await.is(201);
    let token = invite["join_token"].as_str().unwrap();
    d.join_externally(a.group, Some(token)).await.is(200);
    all_agree(&mut [&mut a, &mut b, &mut c, &mut d]).await;
    talk(&mut [&mut a, &mut b, &mut c, &mut d]).await;
}

async fn a_member_leaves_and_the_next_commit_takes_it_out(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for leaver in [1, 2] {
        let [mut a, mut b, mut c] = trio(&relay.url(), Manner::default(), 0, "resync").await;
        let (leaving, staying) = if leaver == 1 { (&mut b, &mut c) } else { (&mut c, &mut b) };
        let proposal = b64(leaving.mls.propose_leave());
        let user = leaving.device.user_id;
        let path = leaving.path(&format!("members/{user}/{user}"));
        leaving.device.delete(&path, Some(&json!({"proposals": [proposal]}))).await.is(200);
        let sealed = b64(staying.mls.seal(b"x"));
        let send = leaving.path(&format!("send/{user}"));
        leaving.device.post(&send, &json!({"ciphertext": sealed})).await.refused(404, "not-found");
        // A commit that does not know of the proposal must not pass.
        a.commit(Change::Update).await.refused(422, "pending-leave");
        a.catch_up().await;
        staying.catch_up().await;
        a.commit(Change::Update).await.is(200);
        all_agree(&mut [&mut a, staying]).await;
        assert_eq!(a.mls.members().len(), 2);
        talk(&mut [&mut a, staying]).await;
    }
}

async fn every_suite_works(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    for suite in [2, 3] {
        let manner = Manner { suite, ..Manner::default() };
        let [mut a, mut b, mut c] = trio(&relay.url(), manner, 1, "resync").await;
        talk(&mut [&mut a, &mut b, &mut c]).await;
        b.commit(Change::Update).await.is(200);
        all_agree(&mut [&mut a, &mut b, &mut c]).await;
    }
}

/// ts-mls 1.6 writes `external_pub` malformed, so that its committers need a group without external joins.
async fn all_three_libraries_share_a_group_without_external_joins(backend: &Backend) {
    if !ts_mls_is_installed() {
        return;
    }
    let relay = backend.relay(&[]).await;
    for private in [false, true] {
        for founder in [openmls, mls_rs, ts_mls] {
            let manner = Manner { private, ..Manner::default() };
            let mut a = Party::new(&relay.url(), founder, manner).await;
            let mut b = Party::new(&relay.url(), openmls, manner).await;
            let mut c = Party::new(&relay.url(), mls_rs, manner).await;
            let mut d = Party::new(&relay.url(), ts_mls, manner).await;
            a.found("none").await;
            let others = [&b, &c, &d].map(|party| party.device.user_id);
            a.add(&others).await.is(200);
            all_agree(&mut [&mut a, &mut b, &mut c, &mut d]).await;
            talk(&mut [&mut a, &mut b, &mut c, &mut d]).await;
            for committer in 0..4 {
                [&mut a, &mut b, &mut c, &mut d][committer].commit(Change::Update).await.is(200);
                all_agree(&mut [&mut a, &mut b, &mut c, &mut d]).await;
            }
            a.remove(&b).await.is(200);
            b.catch_up().await;
            assert!(b.removed);
            all_agree(&mut [&mut a, &mut c, &mut d]).await;
            talk(&mut [&mut a, &mut c, &mut d]).await;
        }
    }
}

async fn a_group_is_made_anew_under_its_id(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let [a, mut b, mut c] = trio(&relay.url(), Manner::default(), 0, "resync").await;
    b.say(b"before").await.is(201);
    let identity = format!("{}:{}", a.device.user_id, a.device.device_id);
    let mut anew = a.anew(openmls, &identity).await;
    let made = anew.mls.create(anew.group);
    let packages = anew.claim(b.device.user_id).await;
    let bundle = anew.mls.commit(Change::Add(packages));
    let body = json!({
        "group_info": b64(&made.group_info),
        "ratchet_tree": b64(&made.tree),
        "commit": b64(&bundle.commit),
        "welcome": b64(bundle.welcome.as_ref().unwrap()),
        "commit_group_info": b64(&bundle.group_info),
    });
    let path = anew.path("reset");
    b.device.post(&path, &body).await.refused(403, "not-allowed");
    let reset = anew.device.post(&path, &body).await.is(200);
    assert_eq!(anew.device.post(&path, &body).await.is(200), reset, "a lost answer may be asked for again");
    anew.mls.accepted();
    anew.skip_to(&reset["position"]);
    all_agree(&mut [&mut anew, &mut b]).await;
    talk(&mut [&mut anew, &mut b]).await;
    c.catch_up().await;
    assert!(c.removed, "who was not added anew is out");
    c.device.get(&c.path("members")).await.refused(404, "not-found");
}
