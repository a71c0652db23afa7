//! A group of 1,500.

use futures_util::{StreamExt as _, stream};
use uuid::Uuid;

use super::party::{Party, all_agree};
use crate::support::{
    crypto::b64,
    mls::{Change, LIBRARIES, Manner},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    fifteen_hundred_members_share_a_group,
}

const MEMBERS: usize = 1_500;

/// Members that really follow the group; the others only have their devices.
const FOLLOWERS: usize = 4;

async fn fifteen_hundred_members_share_a_group(backend: &Backend) {
    let open = [("RATE_LIMIT_REGISTRATIONS", "100000"), ("ADDRESS_LIMIT_REGISTRATIONS", "100000")];
    let relay = backend.relay(&open).await;
    let url = relay.url();
    let made = stream::iter(0..MEMBERS).map(|index| {
        let url = url.clone();
        async move { Party::one_of_many(&url, LIBRARIES[index % 2], Manner::default()).await }
    });
    let mut parties: Vec<Party> = made.buffered(8).collect().await;
    let mut extra = Party::new(&url, LIBRARIES[0], Manner::default()).await;
    let mut founder = parties.remove(0);
    founder.group = Uuid::new_v4();
    let first = founder.mls.create(founder.group);
    let mut packages = Vec::new();
    for party in &parties {
        packages.extend(founder.claim(party.device.user_id).await);
    }
    let bundle = founder.mls.commit(Change::Add(packages));
    let mut body = serde_json::json!({
        "group_id": founder.group,
        "group_info": b64(first.group_info),
        "ratchet_tree": b64(first.tree),
        "commit": b64(&bundle.commit),
        "commit_group_info": b64(&bundle.group_info),
    });
    body["welcome"] = b64(bundle.welcome.as_ref().unwrap()).into();
    let path = format!("/api/v1/groups/create/{}", founder.device.user_id);
    let group = founder.device.post(&path, &body).await.is(201);
    assert_eq!((group["member_count"].as_u64(), group["current_epoch"].as_u64()), (Some(1_500), Some(1)));
    founder.mls.accepted();

    let mut followers: Vec<Party> = parties.drain(..FOLLOWERS).collect();
    let gone = parties.pop().unwrap();
    {
        let mut all: Vec<&mut Party> = followers.iter_mut().collect();
        all.push(&mut founder);
        all_agree(&mut all).await;
    }
    founder.say(b"to all").await.is(201);
    followers[0].commit(Change::Update).await.is(200);
    founder.catch_up().await;
    let full = founder.add(&[extra.device.user_id]).await;
    full.refused(422, "group-full");
    let leaf = leaf_of(&founder, &gone);
    founder.commit(Change::Remove(vec![leaf])).await.is(200);
    followers[1].catch_up().await;
    followers[1].say(b"without one").await.is(201);
    founder.add(&[extra.device.user_id]).await.is(200);
    {
        let mut all: Vec<&mut Party> = followers.iter_mut().collect();
        all.push(&mut founder);
        all.push(&mut extra);
        all_agree(&mut all).await;
    }
    for follower in [&followers[0], &followers[2], &followers[3]] {
        assert_eq!(follower.read, [b"to all".to_vec(), b"without one".to_vec()]);
    }
    assert_eq!(founder.mls.members().len(), MEMBERS);
    let logs = logs(&followers).await;
    assert!(logs.windows(2).all(|pair| pair[0] == pair[1]), "everybody's log agrees");
}

fn leaf_of(party: &Party, other: &Party) -> u32 {
    let identity = format!("{}:{}", other.device.user_id, other.device.device_id);
    party.mls.members().into_iter().find(|(_, name)| *name == identity).unwrap().0
}

async fn logs(parties: &[Party]) -> Vec<serde_json::Value> {
    let mut logs = Vec::new();
    for party in parties {
        let log = party.device.get(&party.path("messages?limit=100")).await.is(200);
        logs.push(log["entries"].clone());
    }
    logs
}
