//! A group after its relay was restored from a backup.

use super::party::{Party, all_agree};
use crate::{
    restore::scripts::{Shelf, backup, borrowed, elsewhere, restore},
    support::{
        login,
        mls::{Change, LIBRARIES, Manner},
        process::RelayProcess,
        relay::{Backend, on_both_backends},
        socket::Socket,
    },
};

on_both_backends! {
    readers_are_told_of_what_is_lost_and_members_go_on_by_joining_anew,
}

async fn readers_are_told_of_what_is_lost_and_members_go_on_by_joining_anew(backend: &Backend) {
    let shelf = Shelf::new();
    let file = shelf.file("relay.backup");
    let mut process = RelayProcess::start(backend, &[]).await;
    let mut a = Party::new(&process.url(), LIBRARIES[0], Manner::default()).await;
    let mut b = Party::new(&process.url(), LIBRARIES[1], Manner::default()).await;
    a.found("resync").await;
    a.add(&[b.device.user_id]).await.is(200);
    all_agree(&mut [&mut a, &mut b]).await;
    let kept = a.say(b"kept").await.is(201)["position"].as_i64().unwrap();
    backup(backend, &file).await.ok();

    // What will be lost, but not to the one who sent it.
    a.commit(Change::Update).await.is(200);
    a.say(b"lost").await.is(201);
    assert!(process.stop().await.success());
    let (there, own) = elsewhere(backend).await;
    restore(&there, &borrowed(&own), &file).await.ok();
    let mut process = RelayProcess::start(&there, &borrowed(&own)).await;
    for party in [&mut a, &mut b] {
        process.url().clone_into(&mut party.device.base);
        let session = login::log_in(&party.device).await;
        party.device.access_token = session.access_token;
    }

    let mut socket = Socket::open(&b.device).await;
    let entry = socket.expect("group_entry").await;
    assert_eq!(entry["position"], kept);
    let gap = socket.expect("group_gap").await;
    assert_eq!(gap["from"], kept + 1);
    let head = gap["to"].as_i64().unwrap();
    assert!(head > kept + 2, "no position of the lost life is given again: {gap}");
    socket.close().await;
    a.say(b"to nobody").await.refused(409, "group-rolled-back");
    let group = a.group;
    for party in [&mut b, &mut a] {
        let joined = party.join_externally(group, None).await.is(200);
        // What came before is of a state that the client has left, or lost.
        party.skip_to(&joined["position"]);
    }
    all_agree(&mut [&mut a, &mut b]).await;
    assert!(a.say(b"again").await.is(201)["position"].as_i64().unwrap() > head);
    b.catch_up().await;
    assert_eq!(b.read.last().unwrap(), b"again");
    assert!(process.stop().await.success());
    there.finish().await;
}
