//! `devices_changed`: every own device learns of it, connected or not, whatever becomes of Redis.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    devices::{lives, names, phone_and_tablet},
    support::{
        client::{Device, Kind},
        faults::{Line, PrivateRedis, Proxy, authority, moved},
        login::at,
        relay::{Backend, on_both_backends},
        socket::{Door, Format, Incoming, Socket},
    },
};

on_both_backends! {
    a_change_reaches_every_other_device_and_waits_for_those_that_are_away,
    what_was_acked_never_comes_again,
    a_newer_list_takes_the_place_of_one_that_waits,
    notices_and_messages_come_in_their_order,
    a_device_that_deactivates_itself_is_missed_by_the_others,
}

/// The notices that wait over REST.
async fn notices(device: &Device) -> Vec<Value> {
    device.queue("limit=100").await.is(200)["notices"].as_array().unwrap().clone()
}

/// Acks whatever waits.
async fn clear(device: &Device) {
    let page = device.queue("limit=100").await.is(200);
    let items = page["notices"].as_array().unwrap().iter().chain(page["messages"].as_array().unwrap());
    device.ack(&items.map(|item| &item["message_id"]).collect::<Vec<_>>()).await.is(200);
}

async fn a_change_reaches_every_other_device_and_waits_for_those_that_are_away(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (phone, tablet) = phone_and_tablet(&relay.url()).await;
    let mut socket = Socket::connect(&phone, Format::MessagePack, Door::Header).await.unwrap();
    assert_eq!(names(&socket.expect("devices_changed").await), ["phone", "tablet"]);
    assert!(notices(&tablet).await.is_empty(), "a newcomer knows");
    let watch = phone.linked("watch").await;
    let live = socket.expect("devices_changed").await;
    assert_eq!(names(&live), ["phone", "tablet", "watch"]);
    let newest = &live["devices"][2];
    assert_eq!(newest["device_number"], watch.device_number);
    assert_eq!(newest["registration_id"], watch.registration_id);
    let waiting = notices(&tablet).await;
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert_eq!(waiting[0]["type"], "devices_changed");
    assert_eq!(names(&waiting[0]), ["phone", "tablet", "watch"]);
    // Reading over REST does not remove: the socket brings the same one.
    let mut late = Socket::open(&tablet).await;
    let backlog = late.until("queue_drained").await;
    assert_eq!(backlog.len(), 1, "{backlog:?}");
    assert_eq!(backlog[0]["message_id"], waiting[0]["message_id"]);
    assert_eq!(backlog[0]["devices"], waiting[0]["devices"]);
    assert!(notices(&watch).await.is_empty(), "a newcomer knows");
    phone.deactivate(&watch).await.is(200);
    for socket in [&mut socket, &mut late] {
        assert_eq!(names(&socket.expect("devices_changed").await), ["phone", "tablet"]);
    }
}

async fn what_was_acked_never_comes_again(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (phone, tablet) = phone_and_tablet(&relay.url()).await;
    let first = notices(&phone).await.remove(0);
    assert_eq!(phone.ack(&[&first["message_id"]]).await.is(200)["removed"], 1);
    assert!(notices(&phone).await.is_empty());
    let mut socket = Socket::open(&phone).await;
    assert!(socket.until("queue_drained").await.is_empty());
    let watch = phone.linked("watch").await;
    let second = socket.expect("devices_changed").await;
    assert_ne!(second["message_id"], first["message_id"]);
    socket.ack(&[&second["message_id"]]).await;
    socket.close().await;
    assert!(Socket::open(&phone).await.until("queue_drained").await.is_empty());
    assert!(notices(&phone).await.is_empty());
    assert_eq!(notices(&tablet).await.len(), 1, "an ack is the device's own");
    // Refused and repeated requests change no list.
    phone.vouch_for(&Device::of(&relay.url(), phone.user_id, "desk", phone.kind)).await.is(201);
    let mut impostor = Device::of(&relay.url(), phone.user_id, "desk", phone.kind);
    let body = impostor.registration();
    impostor.register(&body).await.refused(403, "link-required");
    phone.deactivate(&watch).await.is(200);
    clear(&phone).await;
    assert_eq!(phone.deactivate(&watch).await.status, 404);
    assert!(notices(&phone).await.is_empty());
}

async fn a_newer_list_takes_the_place_of_one_that_waits(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (phone, tablet) = phone_and_tablet(&relay.url()).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let watch = phone.linked("watch").await;
    let old = notices(&tablet).await.remove(0);
    let message = bob.send_opaque(phone.user_id).await["message_id"].clone();
    phone.deactivate(&watch).await.is(200);
    let waiting = notices(&tablet).await;
    assert_eq!(waiting.len(), 1, "{waiting:?}");
    assert_eq!(names(&waiting[0]), ["phone", "tablet"]);
    assert_ne!(waiting[0]["message_id"], old["message_id"]);
    // The newer one stands behind what came before it.
    let backlog = Socket::open(&tablet).await.until("queue_drained").await;
    let ids: Vec<_> = backlog.iter().map(|frame| &frame["message_id"]).collect();
    assert_eq!(ids, [&message, &waiting[0]["message_id"]]);
    // An ack of the one that is gone takes nothing away.
    assert_eq!(tablet.ack(&[&old["message_id"]]).await.is(200)["removed"], 0);
    assert_eq!(notices(&tablet).await, waiting);
}

async fn notices_and_messages_come_in_their_order(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (phone, tablet) = phone_and_tablet(&relay.url()).await;
    clear(&phone).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let mut live = Socket::open(&tablet).await;
    live.expect("queue_drained").await;
    let before = bob.send_opaque(phone.user_id).await["message_id"].clone();
    phone.linked("watch").await;
    let between = bob.send_opaque(phone.user_id).await["message_id"].clone();
    phone.linked("desk").await;
    let after = bob.send_opaque(phone.user_id).await["message_id"].clone();
    let mut came = Vec::new();
    while came.last() != Some(&after) {
        let frame = live.next().await;
        came.push(match frame["type"].as_str().unwrap() {
            "devices_changed" => json!(names(&frame).len()),
            _ => frame["message_id"].clone(),
        });
    }
    // Connected all along: each list at its place.
    assert_eq!(came, [before.clone(), json!(3), between.clone(), json!(4), after.clone()]);
    // Away: the last list alone, at its own place.
    let backlog = Socket::open(&phone).await.until("queue_drained").await;
    let kinds: Vec<_> = backlog.iter().map(|frame| frame["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["message", "message", "devices_changed", "message"]);
    assert_eq!(names(&backlog[2]), ["phone", "tablet", "watch", "desk"]);
    // In pages over REST too: one position after the other.
    let (mut after_position, mut order) = (0, Vec::new());
    loop {
        let page = phone.queue(&format!("limit=1&after={after_position}")).await.is(200);
        for (name, list) in [("m", &page["messages"]), ("n", &page["notices"])] {
            order.extend(list.as_array().unwrap().iter().map(|_| name));
        }
        after_position = page["next_after"].as_i64().unwrap();
        if page["more"] == false {
            break;
        }
    }
    assert_eq!(order, ["m", "m", "n", "m"]);
}

async fn a_device_that_deactivates_itself_is_missed_by_the_others(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let (phone, tablet) = phone_and_tablet(&relay.url()).await;
    let mut hers = Socket::open(&phone).await;
    hers.expect("devices_changed").await;
    let mut its = Socket::open(&tablet).await;
    tablet.deactivate(&tablet).await.is(200);
    assert_eq!(its.closed().await, Some(4403));
    assert_eq!(names(&hers.expect("devices_changed").await), ["phone"]);
    lives(&mut hers).await;
}

/// The names in the next list that comes within five seconds, which is what a lost wake may cost.
async fn next_list(socket: &mut Socket) -> Vec<String> {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match socket.read(deadline).await {
            Some(Incoming::Frame(frame)) if frame["type"] == "devices_changed" => {
                return names(&frame).into_iter().map(ToOwned::to_owned).collect();
            }
            Some(Incoming::Frame(_)) => {}
            other => panic!("no devices_changed: {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_on_another_node_learns_of_a_change_whatever_becomes_of_redis() {
    let Some(backend) = Backend::production().await else { return };
    let redis = std::env::var("RESTANTE_TEST_REDIS_URL").unwrap();
    let proxy = Proxy::to(&authority(&redis)).await;
    let nodes = backend.cluster(2, &[("REDIS_URL", &moved(&redis, proxy.address))]).await;
    let (phone, tablet) = phone_and_tablet(&nodes[0].url()).await;
    let mut there = Socket::open(&at(&nodes[1].url(), &tablet)).await;
    there.expect("queue_drained").await;
    for (line, name) in [(Line::Open, "one"), (Line::Swallows, "two"), (Line::Cut, "three")] {
        proxy.turn(line);
        let newcomer = phone.linked(name).await;
        assert_eq!(next_list(&mut there).await, ["phone", "tablet", name], "{line:?}");
        phone.deactivate(&newcomer).await.is(200);
        assert_eq!(next_list(&mut there).await, ["phone", "tablet"], "{line:?}");
    }
    backend.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flushed_or_killed_redis_loses_no_change() {
    let Some(backend) = Backend::production().await else { return };
    let Some(mut redis) = PrivateRedis::start().await else { return };
    let url = redis.url();
    let nodes = backend.cluster(2, &[("REDIS_URL", url.as_str())]).await;
    let (phone, tablet) = phone_and_tablet(&nodes[0].url()).await;
    let watch = phone.linked("watch").await;
    redis.flush_all().await;
    let there = at(&nodes[1].url(), &tablet);
    let flushed = notices(&there).await;
    assert_eq!(names(&flushed[0]), ["phone", "tablet", "watch"]);
    let mut socket = Socket::open(&there).await;
    assert_eq!(socket.until("queue_drained").await.len(), 1);
    redis.flush_all().await;
    phone.deactivate(&watch).await.is(200);
    assert_eq!(next_list(&mut socket).await, ["phone", "tablet"]);
    redis.kill();
    phone.linked("desk").await;
    assert_eq!(next_list(&mut socket).await, ["phone", "tablet", "desk"]);
    backend.finish().await;
}
