//! Roster groups: made by a list, changed by the word of an admin, as old scripts do it.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{Scene, message, roster, sealed};
use crate::support::{
    client::{Device, Kind},
    crypto::b64,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    a_name_and_a_list_make_a_group,
    a_group_that_is_made_again_is_the_same_group,
    nobody_takes_the_id_of_another_group_or_conversation,
    members_come_and_go_and_every_change_is_an_epoch,
    only_an_admin_adds_and_removes_and_nobody_removes_the_owner,
    an_owner_who_leaves_hands_over_to_the_oldest_admin,
    the_owner_gives_roles_and_keeps_its_own_until_another_has_it,
    an_admin_names_the_group_and_the_relay_cannot_read_it,
    without_the_guard_old_scripts_name_groups_in_clear,
    a_group_has_as_many_members_as_the_setting_says,
    users_that_do_not_exist_are_not_added,
    the_groups_of_a_user_come_in_pages,
    in_open_mode_the_query_says_who_calls,
}

/// What the members endpoint says of each user.
async fn roles(scene: &Scene, by: &Device) -> Vec<(Value, Value, Value)> {
    let members = by.get(&scene.at("/members")).await.is(200);
    let told =
        |member: &Value| (member["user_id"].clone(), member["role"].clone(), member["invited"].clone());
    let roles: Vec<_> = members["members"].as_array().unwrap().iter().map(told).collect();
    assert_eq!(members["count"], roles.len());
    roles
}

async fn a_name_and_a_list_make_a_group(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let (owner, bob, carol) = (&scene.owner, &scene.bob, &scene.carol);
    let name = sealed();
    let body = json!({ "name": name, "member_ids": [bob.user_id, owner.user_id, bob.user_id] });
    let made = owner.post(&format!("/api/v1/groups/create/{}", owner.user_id), &body).await.is(201);
    let expected = [
        ("id", made["group_id"].clone()),
        ("name", json!(name)),
        ("description", Value::Null),
        ("created_by", json!(owner.user_id)),
        ("member_count", json!(2)),
        ("max_members", json!(1500)),
        ("current_epoch", json!(0)),
        ("handshake", json!("none")),
        ("external_join", json!("none")),
        ("cipher_suite", Value::Null),
        ("role", json!("owner")),
        ("invited", json!(false)),
        ("resets", json!(0)),
        ("rolled_back", json!(false)),
    ];
    for (field, value) in expected {
        assert_eq!(made[field], value, "{field}");
    }
    let path = format!("/api/v1/groups/{}", made["group_id"].as_str().unwrap());
    assert_eq!(owner.get(&path).await.is(200), made);
    let theirs = bob.get(&path).await.is(200);
    assert_eq!((&theirs["role"], &theirs["invited"]), (&json!("member"), &json!(true)));
    carol.get(&path).await.refused(404, "not-found");
    let told = roles(&scene, bob).await;
    assert_eq!(told[0], (json!(owner.user_id), json!("owner"), json!(false)));
    assert_eq!(told.len(), 3);
    let devices = bob.get(&format!("{path}/members")).await.is(200)["members"][0]["devices"].clone();
    assert_eq!(
        devices,
        json!([{ "device_id": "phone", "leaf_index": null, "active": true, "leaving": false }])
    );
}

async fn a_group_that_is_made_again_is_the_same_group(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let create = "/api/v1/groups/create/me";
    let id = Uuid::new_v4();
    let body = json!({ "group_id": id, "name": sealed(), "member_ids": [scene.bob.user_id] });
    let made = scene.owner.post(create, &body).await.is(201);
    assert_eq!(made["group_id"], json!(id));
    assert_eq!(scene.owner.post(create, &body).await.is(200), made);
    let mut other = body.clone();
    other["name"] = json!(sealed());
    scene.owner.post(create, &other).await.refused(409, "group-exists");
    scene.bob.post(create, &body).await.refused(409, "group-exists");
    assert_eq!(scene.owner.get(&format!("/api/v1/groups/{id}")).await.is(200), made);
}

async fn nobody_takes_the_id_of_another_group_or_conversation(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let create = "/api/v1/groups/create/me";
    scene.stranger.post(create, &json!({ "group_id": scene.group })).await.refused(409, "group-exists");
    let conversation = scene.owner.send_opaque(scene.bob.user_id).await["conversation_id"].clone();
    scene.stranger.post(create, &json!({ "group_id": conversation })).await.refused(409, "group-exists");
    let mut body = crate::support::client::opaque_send(scene.bob.user_id);
    body["conversation_id"] = json!(scene.group);
    scene.stranger.send(&body).await.refused(404, "not-found");
}

async fn members_come_and_go_and_every_change_is_an_epoch(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let (dave, erin) = (
        Device::registered(&scene.relay, Kind::Ed25519).await,
        Device::registered(&scene.relay, Kind::Ed25519).await,
    );
    let added = scene.add(&scene.owner, dave.user_id).await.is(200);
    assert_eq!((&added["success"], &added["epoch"]), (&json!(true), &json!(1)));
    let again = scene.add(&scene.owner, dave.user_id).await.is(200);
    assert_eq!(again, added, "who is in the group is skipped");
    let several = json!({ "user_ids": [dave.user_id, erin.user_id] });
    let both = scene.owner.post(&scene.at("/members/me"), &several).await.is(200);
    assert_eq!(both["epoch"], 2);
    let gone = scene.remove(&scene.owner, dave.user_id).await.is(200);
    assert_eq!(gone["epoch"], 3);
    let path = scene.at(&format!("/members/{}/{}/remove", erin.user_id, scene.owner.user_id));
    let gone = scene.owner.post(&path, &json!({})).await.is(200);
    assert_eq!(gone["epoch"], 4);
    scene.remove(&scene.owner, erin.user_id).await.refused(404, "not-found");
    let left = scene.bob.delete(&scene.at("/members/me/me"), None).await.is(200);
    assert_eq!(left["epoch"], 5);
    scene.bob.get(&scene.at("")).await.refused(404, "not-found");
    assert_eq!(scene.epoch(&scene.owner).await, 5);

    let log = scene.log(&scene.owner, "limit=100").await.is(200);
    let entries = log["entries"].as_array().unwrap();
    let changes: Vec<Value> = entries
        .iter()
        .filter(|entry| entry["kind"] == "membership")
        .map(|entry| serde_json::from_slice(&crate::support::crypto::unb64(&entry["ciphertext"])).unwrap())
        .collect();
    let expected = [
        json!({ "added": [dave.user_id], "removed": [] }),
        json!({ "added": [erin.user_id], "removed": [] }),
        json!({ "added": [], "removed": [dave.user_id] }),
        json!({ "added": [], "removed": [erin.user_id] }),
        json!({ "added": [], "removed": [scene.bob.user_id] }),
    ];
    assert_eq!(changes[changes.len() - 5..], expected);
}

async fn only_an_admin_adds_and_removes_and_nobody_removes_the_owner(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    scene.add(&scene.bob, scene.stranger.user_id).await.refused(403, "not-allowed");
    scene.remove(&scene.bob, scene.carol.user_id).await.refused(403, "not-allowed");
    scene.remove(&scene.bob, scene.owner.user_id).await.refused(403, "not-allowed");
    assert_eq!(scene.seen().await, before);
    scene.give_role(&scene.owner, scene.bob.user_id, "admin").await.is(200);
    scene.add(&scene.bob, scene.stranger.user_id).await.is(200);
    scene.remove(&scene.bob, scene.stranger.user_id).await.is(200);
    scene.remove(&scene.bob, scene.owner.user_id).await.refused(403, "not-allowed");
}

async fn an_owner_who_leaves_hands_over_to_the_oldest_admin(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    scene.give_role(&scene.owner, scene.carol.user_id, "admin").await.is(200);
    scene.remove(&scene.owner, scene.owner.user_id).await.is(200);
    assert_eq!(scene.carol.get(&scene.at("")).await.is(200)["role"], "owner");
    scene.remove(&scene.carol, scene.carol.user_id).await.is(200);
    assert_eq!(
        scene.bob.get(&scene.at("")).await.is(200)["role"],
        "owner",
        "the oldest member, without an admin"
    );
}

async fn the_owner_gives_roles_and_keeps_its_own_until_another_has_it(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let (owner, bob, carol) = (&scene.owner, &scene.bob, &scene.carol);
    scene.give_role(bob, carol.user_id, "admin").await.refused(403, "not-allowed");
    scene.give_role(owner, scene.stranger.user_id, "admin").await.refused(404, "not-found");
    scene.give_role(owner, owner.user_id, "member").await.refused(403, "not-allowed");
    scene.give_role(owner, bob.user_id, "admin").await.is(200);
    scene.give_role(owner, bob.user_id, "admin").await.is(200);
    scene.give_role(bob, carol.user_id, "admin").await.refused(403, "not-allowed");
    scene.give_role(owner, carol.user_id, "owner").await.is(200);
    let told: Vec<_> = roles(&scene, bob).await.into_iter().map(|(user, role, _)| (user, role)).collect();
    let expected = [(carol, "owner"), (owner, "admin"), (bob, "admin")]
        .map(|(user, role)| (json!(user.user_id), json!(role)));
    assert_eq!(told, expected);
    scene.give_role(owner, bob.user_id, "member").await.refused(403, "not-allowed");
    scene.give_role(carol, bob.user_id, "member").await.is(200);
}

async fn an_admin_names_the_group_and_the_relay_cannot_read_it(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let name = scene.owner.get(&scene.at("")).await.is(200)["name"].clone();
    let text = sealed();
    let named = scene.owner.put(&scene.at(""), Some(&json!({ "description": text }))).await.is(200);
    assert_eq!((&named["name"], &named["description"]), (&name, &json!(text)));
    scene.bob.put(&scene.at(""), Some(&json!({ "name": text }))).await.refused(403, "not-allowed");
    let before = scene.seen().await;
    for readable in ["The Book Club", "Team", "", &b64("The Book Club meets on Tuesdays at eight.")] {
        for field in ["name", "description"] {
            let body = json!({ field: readable });
            let problem = scene.owner.put(&scene.at(""), Some(&body)).await.refused(422, "not-ciphertext");
            assert_eq!(problem["field"], field);
            scene.owner.post("/api/v1/groups/create/me", &body).await.refused(422, "not-ciphertext");
        }
    }
    let large = json!({ "name": b64(crate::support::crypto::opaque(4097)) });
    scene.owner.put(&scene.at(""), Some(&large)).await.refused(413, "too-large");
    scene
        .owner
        .put(&scene.at(""), Some(&json!({ "name": b64(crate::support::crypto::opaque(4096)) })))
        .await
        .is(200);
    scene.owner.put(&scene.at(""), Some(&json!({ "name": before[0]["name"] }))).await.is(200);
    assert_eq!(scene.seen().await, before);
}

async fn without_the_guard_old_scripts_name_groups_in_clear(backend: &Backend) {
    let scene = Scene::new(backend, &[("PLAINTEXT_GUARD", "off")]).await;
    let body = json!({ "name": "The Book Club ☕", "description": "" });
    let made = scene.owner.post("/api/v1/groups/create/me", &body).await.is(201);
    assert_eq!((&made["name"], &made["description"]), (&body["name"], &body["description"]));
    let nul = scene.owner.post("/api/v1/groups/create/me", &json!({ "name": "a\u{0}b" })).await;
    assert_eq!(nul.refused(400, "bad-field")["field"], "name");
}

async fn a_group_has_as_many_members_as_the_setting_says(backend: &Backend) {
    let scene = Scene::new(backend, &[("MAX_GROUP_SIZE", "3")]).await;
    assert_eq!(scene.owner.get("/api/v1/limits").await.is(200)["max_group_size"], 3);
    assert_eq!(scene.owner.get(&scene.at("")).await.is(200)["max_members"], 3);
    let full = scene.add(&scene.owner, scene.stranger.user_id).await.refused(422, "group-full");
    assert_eq!(full["most"], 3);
    let ids: Vec<_> = (0..4).map(|_| Uuid::new_v4()).collect();
    let many = json!({ "member_ids": ids });
    scene.owner.post("/api/v1/groups/create/me", &many).await.refused(422, "group-full");
    let many = json!({ "user_ids": ids });
    scene.owner.post(&scene.at("/members/me"), &many).await.refused(422, "group-full");
    scene.stranger.post(&scene.at("/members/me"), &many).await.refused(404, "not-found");
    scene.remove(&scene.owner, scene.carol.user_id).await.is(200);
    scene.add(&scene.owner, scene.stranger.user_id).await.is(200);
}

async fn users_that_do_not_exist_are_not_added(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let before = scene.seen().await;
    let nobody = Uuid::new_v4();
    let refused = scene.add(&scene.owner, nobody).await.refused(422, "unknown-user");
    assert_eq!(refused["user_id"], json!(nobody));
    let both = json!({ "user_ids": [scene.stranger.user_id, nobody] });
    scene.owner.post(&scene.at("/members/me"), &both).await.refused(422, "unknown-user");
    let body = json!({ "member_ids": [nobody] });
    scene.owner.post("/api/v1/groups/create/me", &body).await.refused(422, "unknown-user");
    assert_eq!(scene.seen().await, before);
}

async fn the_groups_of_a_user_come_in_pages(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let mut own = vec![scene.group.clone()];
    for _ in 0..4 {
        own.push(roster(&scene.owner, &[&scene.bob]).await);
    }
    own.sort();
    let (mut found, mut path) = (Vec::new(), "/api/v1/groups?limit=2".to_owned());
    loop {
        let page = scene.bob.get(&path).await.is(200);
        let groups = page["groups"].as_array().unwrap();
        assert_eq!(page["count"], groups.len());
        assert!(groups.len() <= 2 && groups.iter().all(|group| group["invited"] == json!(true)));
        found.extend(groups.iter().map(|group| group["group_id"].as_str().unwrap().to_owned()));
        let Some(after) = page["next_after"].as_str() else { break };
        path = format!("/api/v1/groups?limit=2&after={after}");
    }
    assert_eq!(found, own);
    scene.send(&scene.bob, &message()).await.is(201);
    let acted = scene.bob.get(&scene.at("")).await.is(200);
    assert_eq!(acted["invited"], json!(false), "who writes has come");
}

async fn in_open_mode_the_query_says_who_calls(backend: &Backend) {
    let scene = Scene::new(backend, &[("AUTH_MODE", "open")]).await;
    let get = async |query: String| {
        let path = scene.at(&format!("/messages{query}"));
        scene.bob.anonymous(reqwest::Method::GET, &path, None).await
    };
    get(format!("?user_id={}", scene.bob.user_id)).await.is(200);
    get(format!("?user_id={}&device_id=phone", scene.bob.user_id)).await.is(200);
    get(format!("?user_id={}", scene.stranger.user_id)).await.refused(404, "not-found");
    get(String::new()).await.refused(400, "bad-field");
}
