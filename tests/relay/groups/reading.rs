//! The log of a group as a device reads it: within its windows, and after what opened them.

use serde_json::{Value, json};

use super::{Scene, message};
use crate::support::{
    client::Device,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_window_comes_with_what_opened_it_until_that_is_acked,
    a_newcomer_reads_from_its_coming_and_who_left_up_to_its_leaving,
    who_comes_again_reads_both_its_windows,
    a_device_linked_later_begins_at_the_head,
    a_log_comes_in_pages,
}

/// The positions of a page.
fn positions(page: &Value) -> Vec<i64> {
    page["entries"].as_array().unwrap().iter().map(|entry| entry["position"].as_i64().unwrap()).collect()
}

/// Every position that a device reads, page by page.
async fn all(scene: &Scene, reader: &Device, limit: u32) -> Vec<i64> {
    let (mut found, mut after) = (Vec::new(), 0);
    loop {
        let page = scene.log(reader, &format!("limit={limit}&after={after}")).await.is(200);
        found.extend(positions(&page));
        after = page["next_after"].as_i64().unwrap();
        if page["more"] == json!(false) {
            return found;
        }
    }
}

async fn send(scene: &Scene) -> i64 {
    scene.send(&scene.owner, &message()).await.is(201)["position"].as_i64().unwrap()
}

async fn a_window_comes_with_what_opened_it_until_that_is_acked(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let sent = send(&scene).await;
    for reader in [&scene.owner, &scene.bob] {
        let page = scene.log(reader, "").await.is(200);
        assert_eq!(page["joined"]["group_id"], json!(scene.group));
        assert!(page.get("welcome").is_none());
        let notices = reader.queue("limit=10").await.is(200)["notices"].clone();
        assert_eq!(notices[0]["message_id"], page["joined"]["message_id"]);
        assert_eq!((&notices[0]["type"], &notices[0]["group_id"]), (&json!("joined"), &json!(scene.group)));
        assert_eq!(scene.log(reader, &format!("after={sent}")).await.is(200)["joined"], page["joined"]);
        reader.ack(&[&page["joined"]["message_id"]]).await.is(200);
        let acked = scene.log(reader, "").await.is(200);
        assert!(acked.get("joined").is_none(), "{acked}");
        assert_eq!(acked["entries"], page["entries"]);
    }
}

async fn a_newcomer_reads_from_its_coming_and_who_left_up_to_its_leaving(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let early = send(&scene).await;
    let added = scene.add(&scene.owner, scene.stranger.user_id).await.is(200)["position"].as_i64().unwrap();
    let heard = send(&scene).await;
    let removed =
        scene.remove(&scene.owner, scene.stranger.user_id).await.is(200)["position"].as_i64().unwrap();
    let late = send(&scene).await;
    let page = scene.log(&scene.stranger, "").await.is(200);
    assert_eq!(positions(&page), [heard, removed], "neither before {added} nor after {removed}");
    assert_eq!((page["head"].as_i64(), page["oldest"].as_i64()), (Some(removed), Some(heard)));
    assert_eq!(page["more"], json!(false));
    for after in [removed, late] {
        let page = scene.log(&scene.stranger, &format!("after={after}")).await.is(200);
        assert_eq!((positions(&page), &page["head"]), (vec![], &json!(removed)));
    }
    let whole = all(&scene, &scene.owner, 100).await;
    assert!([early, added, heard, removed, late].iter().all(|position| whole.contains(position)));
    scene.send(&scene.stranger, &message()).await.refused(404, "not-found");
}

async fn who_comes_again_reads_both_its_windows(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let user = scene.stranger.user_id;
    scene.add(&scene.owner, user).await.is(200);
    let heard = send(&scene).await;
    let removed = scene.remove(&scene.owner, user).await.is(200)["position"].as_i64().unwrap();
    let missed = send(&scene).await;
    scene.add(&scene.owner, user).await.is(200);
    let again = send(&scene).await;
    for limit in [1, 2, 100] {
        assert_eq!(all(&scene, &scene.stranger, limit).await, [heard, removed, again], "never {missed}");
    }
    let notices = scene.stranger.queue("limit=10").await.is(200)["notices"].clone();
    let first = scene.log(&scene.stranger, "").await.is(200);
    let second = scene.log(&scene.stranger, &format!("after={removed}")).await.is(200);
    assert_eq!(first["joined"]["message_id"], notices[0]["message_id"]);
    assert_eq!(second["joined"]["message_id"], notices[1]["message_id"]);
}

async fn a_device_linked_later_begins_at_the_head(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let early = send(&scene).await;
    let laptop = scene.bob.linked("laptop").await;
    let page = scene.log(&laptop, "").await.is(200);
    assert_eq!((positions(&page), &page["head"]), (vec![], &json!(early)));
    assert_eq!(page["joined"]["group_id"], json!(scene.group));
    let late = scene.send(&laptop, &message()).await.is(201)["position"].as_i64().unwrap();
    assert_eq!(all(&scene, &laptop, 10).await, [late]);
    let members = scene.owner.get(&scene.at("/members")).await.is(200);
    let bob = members["members"]
        .as_array()
        .unwrap()
        .iter()
        .find(|member| member["user_id"] == json!(scene.bob.user_id));
    let devices = bob.unwrap()["devices"].as_array().unwrap();
    let names: Vec<_> = devices.iter().map(|device| device["device_id"].as_str().unwrap()).collect();
    assert_eq!(names, ["phone", "laptop"]);
    laptop.deactivate(&laptop).await.is(200);
    scene.send(&laptop, &message()).await.refused(401, "bad-token");
}

async fn a_log_comes_in_pages(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    for _ in 0..7 {
        send(&scene).await;
    }
    let whole = scene.log(&scene.bob, "limit=100").await.is(200);
    assert_eq!(whole["more"], json!(false));
    assert_eq!(
        (&whole["next_after"], &whole["head"]),
        (&whole["head"], &json!(positions(&whole).last().unwrap()))
    );
    for limit in [1, 3, 7] {
        assert_eq!(all(&scene, &scene.bob, limit).await, positions(&whole));
    }
    let beyond = scene.log(&scene.bob, "after=1000").await.is(200);
    assert_eq!(
        (positions(&beyond), &beyond["next_after"], &beyond["more"]),
        (vec![], &json!(1000), &json!(false))
    );
}
