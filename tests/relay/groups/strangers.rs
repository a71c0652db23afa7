//! What has no part in a group learns nothing of it, not even that it exists.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Scene, every_act};
use crate::support::{
    client::{Device, Kind},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_group_does_not_exist_for_strangers,
    who_was_removed_is_a_stranger_but_for_what_it_may_still_read,
    nobody_acts_on_groups_in_anothers_name,
    every_act_needs_a_token,
}

/// A problem without what differs from answer to answer.
fn told(mut problem: Value) -> Value {
    problem.as_object_mut().unwrap().remove("request_id");
    problem
}

async fn a_group_does_not_exist_for_strangers(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    let nowhere = Uuid::new_v4().to_string();
    let of_theirs = every_act(&scene.group, scene.bob.user_id);
    let of_nothing = every_act(&nowhere, scene.bob.user_id);
    for ((method, path, body), (_, elsewhere, same)) in of_theirs.into_iter().zip(of_nothing) {
        let there = scene.stranger.call(method.clone(), &path, body.as_ref()).await;
        let problem = there.refused(404, "not-found");
        let absent =
            scene.stranger.call(method.clone(), &elsewhere, same.as_ref()).await.refused(404, "not-found");
        assert_eq!(told(problem), told(absent), "{method} {path}");
    }
    let listed = scene.stranger.get("/api/v1/groups").await.is(200);
    assert_eq!((&listed["groups"], &listed["count"]), (&json!([]), &json!(0)));
    assert_eq!(scene.seen().await, before);
}

async fn who_was_removed_is_a_stranger_but_for_what_it_may_still_read(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    scene.remove(&scene.owner, scene.carol.user_id).await.is(200);
    for (method, path, body) in every_act(&scene.group, scene.bob.user_id) {
        let answer = scene.carol.call(method.clone(), &path, body.as_ref()).await;
        if path.ends_with("/messages") {
            answer.is(200);
        } else {
            answer.refused(404, "not-found");
        }
    }
}

async fn nobody_acts_on_groups_in_anothers_name(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    let owner = scene.owner.user_id.to_string();
    for (method, path, body) in every_act(&scene.group, scene.bob.user_id) {
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let forged = match path.strip_suffix("/me/remove").map(|front| format!("{front}/{owner}/remove")) {
            Some(forged) => forged,
            None => match path.strip_suffix("/me") {
                Some(front) => format!("{front}/{owner}"),
                None => format!("{path}?user_id={owner}&{query}"),
            },
        };
        scene
            .bob
            .call(method.clone(), forged.trim_end_matches('&'), body.as_ref())
            .await
            .refused(403, "not-you");
    }
    let made = scene.bob.post(&format!("/api/v1/groups/create/{owner}"), &json!({})).await;
    made.refused(403, "not-you");
    scene.bob.get(&format!("/api/v1/groups?user_id={owner}")).await.refused(403, "not-you");
    let mut other_device = super::message();
    other_device["device_id"] = json!("laptop");
    scene.send(&scene.bob, &other_device).await.refused(403, "not-you");
    assert_eq!(scene.seen().await, before);
}

async fn every_act_needs_a_token(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let nobody = Device::new(&scene.relay.url(), Kind::Ed25519);
    for (method, path, body) in every_act(&scene.group, scene.bob.user_id) {
        nobody.anonymous(method.clone(), &path, body.as_ref()).await.refused(401, "no-token");
        nobody.call_as("e30.e30.e30", method, &path, body.as_ref()).await.refused(401, "bad-token");
    }
    let create = "/api/v1/groups/create/me";
    nobody.anonymous(reqwest::Method::POST, create, Some(&json!({}))).await.refused(401, "no-token");
    nobody.anonymous(reqwest::Method::GET, "/api/v1/groups", None).await.refused(401, "no-token");
}
