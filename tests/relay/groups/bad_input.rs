//! What no client should bring to a group: refused with the field that is wrong, and nothing has changed.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Scene, message, private_message, public_message, sealed};
use crate::support::{
    crypto::{b64, opaque},
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    bodies_that_are_not_what_they_should_be_name_their_field,
    framing_that_does_not_fit_is_refused_before_anything_else,
    paths_and_queries_that_name_nothing_are_refused,
    json_that_is_not_an_object_is_refused,
    bodies_over_their_limit_are_refused,
}

/// A field, its value, and the field that the refusal names.
type Bad = (Value, &'static str);

fn of_create() -> Vec<Bad> {
    let info = b64(opaque(60));
    vec![
        (json!({ "name": 7 }), "name"),
        (json!({ "members": [] }), "members"),
        (json!({ "member_ids": "all" }), "member_ids"),
        (json!({ "member_ids": ["x"] }), "member_ids[0]"),
        (json!({ "group_id": "x" }), "group_id"),
        (json!({ "group_id": Uuid::nil() }), "group_id"),
        (json!({ "device_id": "a b" }), "device_id"),
        (json!({ "handshake": "secret" }), "handshake"),
        (json!({ "handshake": "public" }), "group_info"),
        (json!({ "external_join": "anyone" }), "external_join"),
        (json!({ "external_join": "token" }), "group_info"),
        (json!({ "ratchet_tree": info }), "group_info"),
        (json!({ "commit": info }), "group_info"),
        (json!({ "group_info": "!" }), "group_info"),
        (json!({ "group_info": info, "handshake": "none" }), "handshake"),
        (json!({ "group_info": info, "member_ids": [Uuid::new_v4()] }), "member_ids"),
        (json!({ "group_info": info, "commit": info }), "commit_group_info"),
        (json!({ "group_info": info, "welcome": info }), "commit"),
        (json!({ "group_info": info, "commit_group_info": info }), "commit"),
    ]
}

fn of_members() -> Vec<Bad> {
    let bytes = b64(opaque(40));
    vec![
        (json!({}), "user_ids"),
        (json!({ "user_id": Uuid::new_v4(), "user_ids": [] }), "user_ids"),
        (json!({ "user_id": "x" }), "user_id"),
        (json!({ "user_ids": [7] }), "user_ids[0]"),
        (json!({ "commit": bytes }), "group_info"),
        (json!({ "group_info": bytes }), "commit"),
        (json!({ "welcome": bytes }), "commit"),
        (json!({ "commit": bytes, "group_info": bytes, "user_id": Uuid::new_v4() }), "user_id"),
        (json!({ "removed": [] }), "removed"),
    ]
}

fn of_removal() -> Vec<Bad> {
    let bytes = b64(opaque(40));
    vec![
        (json!({ "commit": bytes }), "group_info"),
        (json!({ "group_info": bytes }), "commit"),
        (json!({ "removed": [] }), "commit"),
        (json!({ "proposals": [] }), "proposals"),
        (json!({ "proposals": [bytes], "removed": [] }), "removed"),
        (json!({ "proposals": [bytes], "commit": bytes, "group_info": bytes }), "proposals"),
        (json!({ "proposals": [7] }), "proposals[0]"),
        (json!({ "proposals": [bytes] }), "proposals"),
        (json!({ "welcome": bytes }), "welcome"),
    ]
}

fn of_others() -> Vec<(Method, &'static str, Value, &'static str)> {
    let bytes = b64(opaque(40));
    let device = |name: &str| json!([{ "user_id": Uuid::new_v4(), "device_id": name }]);
    let report = |field: &str, value: Value| {
        let mut report = json!({ "epoch": 0, "commit_blake3": b64([7; 32]), "reason": "broken" });
        report[field] = value;
        report
    };
    vec![
        (Method::PUT, "", json!({ "name": false }), "name"),
        (Method::PUT, "", json!({ "name": "a\u{0}b" }), "name"),
        (Method::PUT, "", json!({ "topic": "x" }), "topic"),
        (Method::POST, "/commits/me", json!({ "group_info": bytes }), "commit"),
        (Method::POST, "/commits/me", json!({ "commit": bytes }), "group_info"),
        (
            Method::POST,
            "/commits/me",
            json!({ "commit": bytes, "group_info": bytes, "removed": device("a b") }),
            "removed[0].device_id",
        ),
        (Method::POST, "/proposals/me", json!({}), "proposal"),
        (Method::POST, "/send/me", json!({}), "ciphertext"),
        (Method::POST, "/send/me", json!({ "ciphertext": "a" }), "ciphertext"),
        (Method::POST, "/send/me", json!({ "ciphertext": bytes, "message_id": Uuid::nil() }), "message_id"),
        (Method::POST, "/send/me", json!({ "ciphertext": bytes, "message_type": "text" }), "message_type"),
        (Method::POST, "/send/me", json!({ "ciphertext": bytes, "online_only": true }), "online_only"),
        (
            Method::POST,
            "/send/me",
            json!({ "ciphertext": bytes, "expires_in_seconds": -1 }),
            "expires_in_seconds",
        ),
        (Method::POST, "/invites", json!({ "expires_in_seconds": 59 }), "expires_in_seconds"),
        (Method::POST, "/invites", json!({ "expires_in_seconds": 2_592_001 }), "expires_in_seconds"),
        (Method::POST, "/invites", json!({ "uses": 3 }), "uses"),
        (Method::POST, "/reports", report("epoch", json!(-1)), "epoch"),
        (Method::POST, "/reports", report("epoch", json!(1_u64 << 53)), "epoch"),
        (Method::POST, "/reports", report("commit_blake3", json!(b64([7; 31]))), "commit_blake3"),
        (Method::POST, "/reports", report("reason", json!("x".repeat(257))), "reason"),
        (Method::POST, "/reports", report("reason", json!("a\nb")), "reason"),
        (Method::POST, "/reset", json!({ "group_info": bytes, "handshake": "none" }), "handshake"),
    ]
}

async fn bodies_that_are_not_what_they_should_be_name_their_field(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    let removal = format!("/members/{}/me", scene.bob.user_id);
    let by_post = format!("{removal}/remove");
    let bob = scene.bob.user_id;
    let mut cases: Vec<(Method, String, Value, &str)> = Vec::new();
    for (body, field) in of_create() {
        cases.push((Method::POST, "/api/v1/groups/create/me".into(), body, field));
    }
    for (body, field) in of_members() {
        cases.push((Method::POST, scene.at("/members/me"), body, field));
    }
    for (body, field) in of_removal() {
        cases.push((Method::DELETE, scene.at(&removal), body.clone(), field));
        cases.push((Method::POST, scene.at(&by_post), body, field));
    }
    for (method, path, body, field) in of_others() {
        cases.push((method, scene.at(path), body, field));
    }
    cases.push((Method::PUT, scene.at(&format!("/roles/{bob}")), json!({ "role": "king" }), "role"));
    cases.push((Method::PUT, scene.at(&format!("/roles/{bob}")), json!({}), "role"));
    for (method, path, body, field) in cases {
        let problem = scene.owner.call(method.clone(), &path, Some(&body)).await.refused(400, "bad-field");
        assert_eq!(problem["field"], field, "{method} {path} {body}");
    }
    assert_eq!(scene.seen().await, before);
}

async fn framing_that_does_not_fit_is_refused_before_anything_else(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    let (group, elsewhere) = (&scene.group, Uuid::new_v4().to_string());
    let commits = [
        (b64(opaque(64)), "not-mls"),
        (b64([0, 2, 0, 1]), "not-mls"),
        (public_message(group, 0, 0, 1), "invalid-commit"),
        (public_message(group, 0, 0, 2), "invalid-commit"),
        (public_message(&elsewhere, 0, 0, 3), "invalid-commit"),
        (private_message(group, 0, 1), "invalid-commit"),
        (private_message(&elsewhere, 0, 3), "invalid-commit"),
        (private_message(group, u64::MAX, 3), "not-mls"),
        (b64([0, 1, 0, 3, 0, 1]), "invalid-commit"),
    ];
    for (commit, code) in commits {
        let body = json!({ "commit": commit, "group_info": b64(opaque(40)) });
        for path in ["/commits/me".to_owned(), "/members/me".to_owned()] {
            let problem = scene.owner.post(&scene.at(&path), &body).await.refused(422, code);
            assert_eq!(problem["field"], "commit");
            let strange = scene.stranger.post(&scene.at(&path), &body).await.refused(422, code);
            assert_eq!(strange["detail"], problem["detail"], "whoever asks, it says nothing of the group");
        }
    }
    let proposals = [
        (b64(opaque(64)), "not-mls"),
        (public_message(group, 0, 0, 3), "proposal-not-allowed"),
        (public_message(&elsewhere, 0, 0, 2), "proposal-not-allowed"),
        (private_message(group, 0, 1), "proposal-not-allowed"),
    ];
    for (proposal, code) in proposals {
        let body = json!({ "proposal": proposal });
        let problem = scene.owner.post(&scene.at("/proposals/me"), &body).await.refused(422, code);
        assert_eq!(problem["field"], "proposal");
    }
    let info = json!({ "group_info": b64(opaque(60)) });
    scene.owner.post("/api/v1/groups/create/me", &info).await.refused(422, "bad-group-info");
    assert_eq!(scene.seen().await, before);
}

async fn paths_and_queries_that_name_nothing_are_refused(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let user = scene.owner.user_id;
    let bad = [
        ("/api/v1/groups/x".to_owned(), "group_id"),
        (format!("/api/v1/groups/{}", user.simple()), "group_id"),
        ("/api/v1/groups/x/members".into(), "group_id"),
        ("/api/v1/groups/x/messages".into(), "group_id"),
        ("/api/v1/groups/x/invites".into(), "group_id"),
        ("/api/v1/groups?after=x".into(), "after"),
        ("/api/v1/groups?limit=0".into(), "limit"),
        ("/api/v1/groups?limit=101".into(), "limit"),
        ("/api/v1/groups?page=1".into(), "page"),
        (scene.at("/messages?limit=0"), "limit"),
        (scene.at("/messages?limit=many"), "limit"),
        (scene.at("/messages?after=x"), "after"),
        (scene.at("/messages?before=1"), "before"),
        (scene.at("/tree?epoch=-1"), "epoch"),
        (scene.at(&format!("/tree?epoch={}", 1_u64 << 53)), "epoch"),
        (scene.at("/info?x=1"), "x"),
        (scene.at("?user_id=x"), "user_id"),
    ];
    for (path, field) in bad {
        let problem = scene.owner.get(&path).await.refused(400, "bad-field");
        assert_eq!(problem["field"], field, "{path}");
    }
    let role = json!({ "role": "admin" });
    scene.owner.put(&scene.at("/roles/x"), Some(&role)).await.refused(400, "bad-field");
    scene.owner.delete(&scene.at("/invites/x"), None).await.refused(400, "bad-field");
    scene.owner.delete(&scene.at("/members/x/me"), None).await.refused(400, "bad-field");
    scene.owner.post(&scene.at("/send/x"), &message()).await.refused(400, "bad-field");
    scene.owner.post("/api/v1/groups/create/x", &json!({})).await.refused(400, "bad-field");
}

async fn json_that_is_not_an_object_is_refused(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    let acts = [
        (Method::POST, "/members/me".to_owned()),
        (Method::DELETE, format!("/members/{}/me", scene.bob.user_id)),
        (Method::POST, "/commits/me".to_owned()),
        (Method::POST, "/send/me".to_owned()),
        (Method::POST, "/invites".to_owned()),
        (Method::PUT, String::new()),
    ];
    for (method, what) in acts {
        for text in ["null", "true", "7", "[]", "{", "{}{}", "\"text\""] {
            let request =
                scene.owner.request(method.clone(), &scene.at(&what)).bearer_auth(&scene.owner.access_token);
            let request = request.header("content-type", "application/json").body(text);
            let answer = crate::support::client::Answer::of(request.send().await.unwrap()).await;
            assert_eq!(answer.status, 400, "{method} {what} {text}: {answer:?}");
        }
        let request =
            scene.owner.request(method.clone(), &scene.at(&what)).bearer_auth(&scene.owner.access_token);
        let answer = crate::support::client::Answer::of(request.body("{}").send().await.unwrap()).await;
        answer.refused(415, "unsupported-media-type");
    }
    assert_eq!(scene.seen().await, before);
}

async fn bodies_over_their_limit_are_refused(backend: &Backend) {
    let scene = Scene::new(backend, &[("MAX_GROUP_BODY_BYTES", "70000")]).await;
    assert_eq!(scene.owner.get("/api/v1/limits").await.is(200)["max_group_body_bytes"], 70_000);
    let commit = |len: usize| json!({ "commit": b64(opaque(len)), "group_info": b64(opaque(40)) });
    scene.owner.post(&scene.at("/commits/me"), &commit(60_000)).await.refused(413, "too-large");
    scene.owner.post(&scene.at("/commits/me"), &commit(40_000)).await.refused(422, "not-mls");
    let large = b64(opaque(50_000));
    let mut create = json!({ "group_info": large });
    create["ratchet_tree"] = json!(large);
    scene.owner.post("/api/v1/groups/create/me", &create).await.refused(413, "too-large");
    let role = json!({ "role": "x".repeat(65 << 10) });
    scene.owner.put(&scene.at("/roles/me"), Some(&role)).await.refused(413, "too-large");
    let named = json!({ "name": sealed() });
    scene.owner.put(&scene.at(""), Some(&named)).await.is(200);
}
