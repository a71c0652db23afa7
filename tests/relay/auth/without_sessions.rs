//! `AUTH_MODE=open` knows no sessions: what is about the calling one needs a token.

use reqwest::Method;

use crate::support::{
    client::{Device, Kind},
    relay::{Backend, on_both_backends},
};

on_both_backends! { open_mode_has_no_session_to_speak_of }

async fn open_mode_has_no_session_to_speak_of(backend: &Backend) {
    let relay = backend.relay(&[("AUTH_MODE", "open")]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    for (method, path) in [
        (Method::POST, "/api/v1/auth/logout"),
        (Method::POST, "/api/v1/auth/ticket"),
        (Method::GET, "/api/v1/auth/sessions"),
        (Method::GET, "/api/v1/auth/audit"),
    ] {
        alice.anonymous(method, path, None).await.refused(401, "no-token");
    }
    alice.anonymous(Method::GET, &alice.own("stats"), None).await.is(200);
}
