//! Join tokens: for MLS groups whose policy lets whoever holds one in; what a roster group says of them.

use serde_json::json;
use uuid::Uuid;

use super::Scene;
use crate::support::relay::{Backend, on_both_backends};

on_both_backends! {
    a_roster_group_gives_no_tokens,
    only_an_admin_sees_and_ends_invites,
}

async fn a_roster_group_gives_no_tokens(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    for body in [json!({}), json!({ "expires_in_seconds": 60 })] {
        scene.owner.post(&scene.at("/invites"), &body).await.refused(403, "not-allowed");
    }
    let listed = scene.owner.get(&scene.at("/invites")).await.is(200);
    assert_eq!(listed, json!({ "invites": [], "count": 0 }));
}

async fn only_an_admin_sees_and_ends_invites(backend: &Backend) {
    let scene = Scene::new(backend, &[]).await;
    let invite = scene.at(&format!("/invites/{}", Uuid::new_v4()));
    scene.bob.get(&scene.at("/invites")).await.refused(403, "not-allowed");
    scene.bob.delete(&invite, None).await.refused(403, "not-allowed");
    scene.owner.delete(&invite, None).await.refused(404, "not-found");
    scene.give_role(&scene.owner, scene.bob.user_id, "admin").await.is(200);
    scene.bob.get(&scene.at("/invites")).await.is(200);
    scene.bob.delete(&invite, None).await.refused(404, "not-found");
}
