//! The logs of groups on the socket: what arrives, after what, how often, and to whom.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{pair, quiet};
use crate::support::{
    client::{Device, Kind},
    crypto::{b64, opaque},
    faults::eventually,
    relay::{Backend, on_both_backends},
    rosters::positions,
    socket::{Door, Format, PATIENCE, Socket},
};

on_both_backends! {
    a_backlog_comes_after_its_item_in_order_and_alike_in_both_formats,
    a_live_entry_reaches_every_member_and_its_sender,
    what_is_unacked_comes_again_and_what_is_acked_never,
    a_removed_member_reads_up_to_its_removal_and_begins_anew_when_it_is_back,
    a_device_that_is_linked_later_begins_at_the_head,
    a_group_that_is_not_acked_stops_neither_the_mailbox_nor_another_group,
    entries_wait_until_the_mailbox_comes_to_their_item,
    entries_do_not_wait_for_an_item_that_is_gone,
    an_ack_goes_neither_back_nor_beyond_the_head,
    a_group_send_is_answered_like_over_rest,
    an_expired_body_is_not_told,
    large_entries_arrive_whole,
    a_hundred_groups_are_drained,
}

async fn trio(backend: &Backend) -> (Device, Device, Device) {
    let relay = backend.relay(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let carol = Device::registered(&relay, Kind::Ed25519).await;
    (alice, bob, carol)
}

/// A connection after its greeting, and what it was given until it was drained.
async fn drained(device: &Device) -> (Socket, Vec<Value>) {
    let mut socket = Socket::open(device).await;
    let frames = socket.until("queue_drained").await;
    (socket, frames.into_iter().filter(|frame| frame["type"] != "hello").collect())
}

fn of_type(kind: &str, frames: &[Value]) -> Vec<Value> {
    frames.iter().filter(|frame| frame["type"] == kind).cloned().collect()
}

/// This many entries as they come.
async fn entries(socket: &mut Socket, count: usize) -> Vec<Value> {
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(socket.expect("group_entry").await);
    }
    entries
}

async fn ack(socket: &mut Socket, group: Uuid, position: i64) {
    let reference = Uuid::new_v4().to_string();
    let groups = json!({ group.to_string(): position });
    socket.send(&json!({ "type": "ack", "ref": reference, "groups": groups })).await;
    socket.expect_where("acked", |frame| frame["ref"] == reference.as_str()).await;
}

async fn a_backlog_comes_after_its_item_in_order_and_alike_in_both_formats(backend: &Backend) {
    let (alice, bob, _) = trio(backend).await;
    let group = alice.founds(&[&bob]).await;
    let sent = alice.says_much(group, 5).await;
    let mut backlogs = Vec::new();
    for format in [Format::Json, Format::MessagePack] {
        let mut socket = Socket::connect(&bob, format, Door::Header).await.unwrap();
        socket.expect("hello").await;
        backlogs.push(socket.until("queue_drained").await);
        socket.close().await;
    }
    assert_eq!(backlogs[0], backlogs[1]);
    let frames = &backlogs[0];
    assert_eq!((&frames[0]["type"], &frames[0]["group_id"]), (&json!("joined"), &json!(group)));
    let told = of_type("group_entry", frames);
    assert_eq!(frames.len(), 1 + told.len());
    let last = &told[told.len() - 5..];
    assert_eq!(positions(last), sent);
    assert!(positions(&told).is_sorted_by(|one, next| one + 1 == *next));
    for entry in last {
        assert_eq!((&entry["group_id"], &entry["kind"]), (&json!(group), &json!("application")));
        assert_eq!(
            (&entry["sender_id"], &entry["sender_device_id"]),
            (&json!(alice.user_id), &json!("phone"))
        );
        assert_eq!(
            (&entry["sequence_number"], &entry["message_type"]),
            (&entry["position"], &json!("Opaque"))
        );
        assert!(entry["ciphertext"].is_string() && entry["expires_at"].is_null(), "{entry}");
    }
}

async fn a_live_entry_reaches_every_member_and_its_sender(backend: &Backend) {
    let (alice, bob, carol) = trio(backend).await;
    let stranger = Device::registered_at(&alice.base, Kind::Ed25519).await;
    let (mut outside, _) = drained(&stranger).await;
    let (mut hers, _) = drained(&alice).await;
    let (mut his, _) = drained(&bob).await;
    // The group is made while they are connected.
    let group = alice.founds(&[&bob, &carol]).await;
    for socket in [&mut hers, &mut his] {
        assert_eq!(socket.expect("joined").await["group_id"], json!(group));
    }
    let (mut third, _) = drained(&carol).await;
    for sender in [&alice, &bob, &carol] {
        let sent = sender.says(group).await;
        for socket in [&mut hers, &mut his, &mut third] {
            let entry = socket.expect_where("group_entry", |entry| entry["kind"] == "application").await;
            assert_eq!(entry["message_id"], sent["message_id"]);
            assert_eq!(entry["position"], sent["position"]);
        }
    }
    quiet(&mut outside).await;
}

async fn what_is_unacked_comes_again_and_what_is_acked_never(backend: &Backend) {
    let (alice, bob, _) = trio(backend).await;
    let group = alice.founds(&[&bob]).await;
    let sent = alice.says_much(group, 6).await;
    let (mut socket, first) = drained(&bob).await;
    let first = positions(&of_type("group_entry", &first));
    assert_eq!(bob.waiting_in(group).await, first);
    ack(&mut socket, group, sent[2]).await;
    socket.close().await;
    let (mut socket, again) = drained(&bob).await;
    assert_eq!(positions(&of_type("group_entry", &again)), sent[3..]);
    assert_eq!(bob.waiting_in(group).await, sent[3..]);
    // Without a `ref` it is stored at the latest when the socket ends.
    socket.send(&json!({ "type": "ack", "groups": { group.to_string(): sent[5] } })).await;
    quiet(&mut socket).await;
    socket.close().await;
    eventually("the ack is stored", PATIENCE, async || bob.waiting_in(group).await.is_empty()).await;
    let (_, last) = drained(&bob).await;
    assert!(of_type("group_entry", &last).is_empty());
}

async fn a_removed_member_reads_up_to_its_removal_and_begins_anew_when_it_is_back(backend: &Backend) {
    let (alice, bob, carol) = trio(backend).await;
    let group = alice.founds(&[&bob, &carol]).await;
    let (mut live, _) = drained(&bob).await;
    alice.says(group).await;
    let removed = alice.removes(group, bob.user_id).await;
    alice.removes(group, carol.user_id).await;
    alice.says_much(group, 3).await;
    let added = alice.adds(group, bob.user_id).await;
    let sent = alice.says_much(group, 2).await;
    let mut told = Vec::new();
    while told.last() != Some(&sent[1]) {
        told.push(live.expect("group_entry").await["position"].as_i64().unwrap());
    }
    let seam = told.iter().position(|position| *position > removed).unwrap();
    assert_eq!(told[seam - 1], removed, "{told:?}");
    assert!(told[..seam].is_sorted_by(|one, next| one + 1 == *next), "{told:?}");
    assert_eq!(told[seam..], sent, "the window begins after the entry {added}");
    live.expect("joined").await;
    quiet(&mut live).await;
    // What it was not connected for is the same.
    let (_, frames) = drained(&carol).await;
    let hers = positions(&of_type("group_entry", &frames));
    assert_eq!(hers.last(), Some(&(removed + 1)));
    let (_, frames) = drained(&bob).await;
    assert_eq!(positions(&of_type("group_entry", &frames)), told);
    let kinds: Vec<_> = frames.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    let joined: Vec<_> = (0..kinds.len()).filter(|at| kinds[*at] == "joined").collect();
    let first_new = frames.iter().position(|frame| frame["position"] == json!(sent[0])).unwrap();
    assert!(joined.len() == 2 && joined[1] < first_new, "{kinds:?}");
}

async fn a_device_that_is_linked_later_begins_at_the_head(backend: &Backend) {
    let (alice, bob, _) = trio(backend).await;
    let group = alice.founds(&[&bob]).await;
    alice.says_much(group, 3).await;
    let tablet = bob.linked("tablet").await;
    let sent = alice.says_much(group, 2).await;
    let (_, frames) = drained(&tablet).await;
    assert_eq!(frames[0]["type"], "joined");
    assert_eq!(positions(&of_type("group_entry", &frames)), sent);
}

async fn a_group_that_is_not_acked_stops_neither_the_mailbox_nor_another_group(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "4")]).await;
    let (alice, bob) = pair(&relay).await;
    let (stuck, other) = (alice.founds(&[&bob]).await, alice.founds(&[&bob]).await);
    let (mut socket, _) = drained(&bob).await;
    alice.says_much(stuck, 10).await;
    let told = entries(&mut socket, 4).await;
    assert!(told.iter().all(|entry| entry["group_id"] == json!(stuck)));
    quiet(&mut socket).await;
    let id = alice.send_opaque(bob.user_id).await["message_id"].clone();
    assert_eq!(socket.expect("message").await["message_id"], id);
    for position in alice.says_much(other, 6).await {
        let entry = socket.expect("group_entry").await;
        assert_eq!((&entry["group_id"], &entry["position"]), (&json!(other), &json!(position)));
        ack(&mut socket, other, position).await;
    }
    let last = told[3]["position"].as_i64().unwrap();
    ack(&mut socket, stuck, last).await;
    assert_eq!(positions(&entries(&mut socket, 4).await), (last + 1..=last + 4).collect::<Vec<_>>());
    quiet(&mut socket).await;
}

async fn entries_wait_until_the_mailbox_comes_to_their_item(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "2")]).await;
    let (alice, bob) = pair(&relay).await;
    let waiting = super::sent(&alice, bob.user_id, 3).await;
    let group = alice.founds(&[&bob]).await;
    let sent = alice.says_much(group, 2).await;
    assert!(bob.queue("limit=3").await.is(200)["groups"].as_array().unwrap().is_empty());
    assert_eq!(bob.queue("limit=4").await.is(200)["groups"][0]["group_id"], json!(group));
    let mut socket = Socket::open(&bob).await;
    assert_eq!(super::messages(&mut socket, 2).await, waiting[..2]);
    quiet(&mut socket).await;
    socket.ack(&[&waiting[0], &waiting[1]]).await;
    assert_eq!(super::messages(&mut socket, 1).await, waiting[2..]);
    let next = socket.next().await;
    assert_eq!((&next["type"], &next["group_id"]), (&json!("joined"), &json!(group)));
    let mut told = Vec::new();
    while told.last() != sent.last() {
        told.push(socket.expect("group_entry").await["position"].as_i64().unwrap());
    }
    socket.expect("queue_drained").await;
}

async fn entries_do_not_wait_for_an_item_that_is_gone(backend: &Backend) {
    let relay = backend.relay(&[("MAX_IN_FLIGHT", "2")]).await;
    let (alice, bob) = pair(&relay).await;
    super::sent(&alice, bob.user_id, 3).await;
    let group = alice.founds(&[&bob]).await;
    let sent = alice.says_much(group, 1).await;
    let notices = bob.queue("limit=10").await.is(200)["notices"].clone();
    bob.ack(&[&notices[0]["message_id"]]).await.is(200);
    let page = bob.queue("limit=1").await.is(200);
    assert_eq!(page["more"], true);
    assert_eq!(positions(page["groups"][0]["entries"].as_array().unwrap()).last(), sent.last());
    let mut socket = Socket::open(&bob).await;
    super::messages(&mut socket, 2).await;
    socket.expect_where("group_entry", |entry| entry["position"] == json!(sent[0])).await;
}

async fn an_ack_goes_neither_back_nor_beyond_the_head(backend: &Backend) {
    let (alice, bob, carol) = trio(backend).await;
    let group = alice.founds(&[&bob]).await;
    let sent = alice.says_much(group, 3).await;
    let (mut socket, _) = drained(&bob).await;
    ack(&mut socket, group, sent[1]).await;
    ack(&mut socket, group, sent[0]).await;
    assert_eq!(bob.waiting_in(group).await, sent[2..]);
    ack(&mut socket, group, sent[2] + 1_000).await;
    assert!(bob.waiting_in(group).await.is_empty());
    let later = alice.says_much(group, 2).await;
    assert_eq!(positions(&entries(&mut socket, 2).await), later);
    assert_eq!(bob.waiting_in(group).await, later);
    // Others' groups are ignored, and nonsense is refused.
    carol.ack_groups(&json!({ group.to_string(): later[1] })).await.is(200);
    bob.ack_groups(&json!({ group.to_string(): -1 })).await.refused(400, "bad-field");
    socket.send(&json!({ "type": "ack", "ref": "n", "groups": { group.to_string(): -1 } })).await;
    assert_eq!(socket.expect("error").await["code"], "bad-field");
    assert_eq!(bob.waiting_in(group).await, later);
    bob.ack_groups(&json!({ group.to_string(): later[0] })).await.is(200);
    assert_eq!(bob.waiting_in(group).await, later[1..]);
}

async fn a_group_send_is_answered_like_over_rest(backend: &Backend) {
    let (alice, bob, carol) = trio(backend).await;
    let group = alice.founds(&[&bob]).await;
    let frame = |reference: &str, message_id: Uuid| {
        json!({ "type": "group_send", "ref": reference, "group_id": group, "message_id": message_id,
            "ciphertext": b64(opaque(64)), "message_type": "Poll" })
    };
    let id = Uuid::new_v4();
    let (mut his, mut hers) = (Socket::open(&bob).await, Socket::open(&carol).await);
    let first = frame("1", id);
    his.send(&first).await;
    let sent = his.expect("sent").await;
    assert_eq!(
        (&sent["ref"], &sent["message_id"], &sent["group_id"]),
        (&json!("1"), &json!(id), &json!(group))
    );
    assert_eq!((&sent["sequence_number"], &sent["status"]), (&sent["position"], &json!("Sent")));
    let entry = his.expect_where("group_entry", |entry| entry["message_id"] == json!(id)).await;
    assert_eq!((&entry["position"], &entry["message_type"]), (&sent["position"], &json!("Poll")));
    assert_eq!(entry["ciphertext"], first["ciphertext"]);
    his.send(&first).await;
    assert_eq!(his.expect("sent").await["position"], sent["position"]);
    his.send(&frame("2", id)).await;
    assert_eq!(his.expect("error").await["code"], "message-id-reused");
    hers.send(&frame("3", Uuid::new_v4())).await;
    assert_eq!(hers.expect("error").await["code"], "not-found");
    let mut foreign = frame("4", Uuid::new_v4());
    foreign["device_id"] = json!("tablet");
    his.send(&foreign).await;
    assert_eq!(his.expect("error").await["code"], "not-you");
    let mut packed = Socket::connect(&alice, Format::MessagePack, Door::Header).await.unwrap();
    packed.send(&frame("5", Uuid::new_v4())).await;
    assert_eq!(packed.expect("sent").await["ref"], "5");
}

async fn an_expired_body_is_not_told(backend: &Backend) {
    let (relay, clock) = backend.relay_at_noon(&[]).await;
    let (alice, bob) = pair(&relay).await;
    let group = alice.founds(&[&bob]).await;
    // Somebody has the entry in this process's memory.
    let (mut hers, _) = drained(&alice).await;
    let brief = json!({ "ciphertext": b64(opaque(64)), "expires_in_seconds": 5 });
    let sent = alice.send_to_group(group, &brief).await.is(201);
    let entry = hers.expect_where("group_entry", |entry| entry["position"] == sent["position"]).await;
    assert_eq!(entry["ciphertext"], brief["ciphertext"]);
    clock.advance(std::time::Duration::from_secs(6));
    let (_, frames) = drained(&bob).await;
    let told = of_type("group_entry", &frames);
    let entry = told.last().unwrap();
    assert_eq!((&entry["position"], &entry["ciphertext"]), (&sent["position"], &Value::Null));
}

async fn large_entries_arrive_whole(backend: &Backend) {
    let (alice, bob, _) = trio(backend).await;
    let group = alice.founds(&[&bob]).await;
    let (mut live, _) = drained(&bob).await;
    let mut sent = Vec::new();
    for size in [90_000, 60_000, 95_000, 10] {
        let body = json!({ "ciphertext": b64(opaque(size.max(64))) });
        alice.send_to_group(group, &body).await.is(201);
        sent.push(body["ciphertext"].clone());
    }
    let bodies = |entries: &[Value]| -> Vec<Value> {
        let of_messages = entries.iter().filter(|entry| entry["kind"] == "application");
        of_messages.map(|entry| entry["ciphertext"].clone()).collect()
    };
    let mut told = Vec::new();
    while bodies(&told).len() < 4 {
        told.push(live.expect("group_entry").await);
    }
    assert_eq!(bodies(&told), sent);
    let (_, again) = drained(&bob).await;
    assert_eq!(bodies(&of_type("group_entry", &again)), sent);
}

async fn a_hundred_groups_are_drained(backend: &Backend) {
    let (alice, bob, _) = trio(backend).await;
    let mut last = std::collections::HashMap::new();
    for _ in 0..100 {
        let group = alice.founds(&[&bob]).await;
        last.insert(json!(group), alice.says_much(group, 2).await[1]);
    }
    let (mut socket, frames) = drained(&bob).await;
    assert_eq!(of_type("joined", &frames).len(), 100);
    for (group, position) in &last {
        let told: Vec<_> = frames.iter().filter(|frame| frame["group_id"] == *group).cloned().collect();
        assert_eq!(told[0]["type"], "joined");
        let told = positions(&told[1..]);
        assert!(told.is_sorted_by(|one, next| one + 1 == *next) && told.last() == Some(position), "{told:?}");
    }
    let groups: serde_json::Map<_, _> =
        last.iter().map(|(group, position)| (group.as_str().unwrap().to_owned(), json!(position))).collect();
    socket.send(&json!({ "type": "ack", "ref": "all", "groups": groups })).await;
    socket.expect("acked").await;
    assert!(bob.queue("limit=1").await.is(200)["groups"].as_array().unwrap().is_empty());
}
