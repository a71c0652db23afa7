//! The keys that sign access tokens: several at once, from a value or a file, or made once in the data folder.

use std::{collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::Path};

use super::jwt::{fresh_key, header, setting};
use crate::support::{
    client::{Device, Kind},
    crypto::b64,
    process,
    relay::{Backend, on_both_backends},
};

on_both_backends! {
    keys_are_exchanged_without_logging_anyone_out,
    keys_may_stand_in_a_file,
}

const NAME: &str = "TOKEN_SIGNING_KEY";

async fn keys_are_exchanged_without_logging_anyone_out(backend: &Backend) {
    let (old, new) = (setting(&fresh_key()), setting(&fresh_key()));
    let relay = backend.relay(&[(NAME, &old)]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let before = alice.access_token.clone();
    relay.stop().await;

    let relay = backend.relay(&[(NAME, &format!("{new},{old}"))]).await;
    alice.base = relay.url();
    alice.is_alive().await;
    alice.refresh().await;
    alice.is_alive().await;
    alice.stats_as(&before).await.is(200);
    assert_ne!(header(&alice.access_token)["kid"], header(&before)["kid"]);
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    assert_eq!(header(&bob.access_token)["kid"], header(&alice.access_token)["kid"], "the first one signs");
    relay.stop().await;

    let relay = backend.relay(&[(NAME, &new)]).await;
    alice.base = relay.url();
    alice.is_alive().await;
    alice.stats_as(&before).await.refused(401, "bad-token");
    alice.refresh().await;
    alice.is_alive().await;
    assert_eq!(alice.sessions().await.len(), 1, "nobody was logged out");
}

async fn keys_may_stand_in_a_file(backend: &Backend) {
    let (old, new) = (setting(&fresh_key()), setting(&fresh_key()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, format!("{old}\n")).unwrap();
    let told = path.display().to_string();
    let relay = backend.relay(&[(NAME, &told)]).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    relay.stop().await;

    fs::write(&path, format!("{new}\n{old}\n")).unwrap();
    let relay = backend.relay(&[(NAME, &told)]).await;
    alice.base = relay.url();
    alice.is_alive().await;
    relay.stop().await;

    // The file holds what the value would.
    let relay = backend.relay(&[(NAME, &old)]).await;
    alice.base = relay.url();
    alice.is_alive().await;
    relay.stop().await;
    let relay = backend.relay(&[(NAME, &new)]).await;
    alice.base = relay.url();
    alice.stats_as(&alice.access_token).await.refused(401, "bad-token");
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embedded_relay_makes_its_secrets_once() {
    let backend = Backend::embedded();
    let folder = backend.folder().join("data");
    let told = folder.display().to_string();
    let own = [("DATA_DIR", &*told)];
    let relay = backend.relay(&own).await;
    let mut alice = Device::registered(&relay, Kind::Ed25519).await;
    let link = alice.vouch(&Device::of(&relay.url(), alice.user_id, "laptop", alice.kind));
    relay.stop().await;
    let secrets = ["token-signing.key", "master.key"].map(|name| folder.join(name));
    let read = || secrets.clone().map(|path| fs::read_to_string(path).unwrap());
    let first = read();
    assert_ne!(first[0], first[1]);
    assert_eq!(mode(&folder), 0o700);
    for path in &secrets {
        assert_eq!(mode(path), 0o600, "{}", path.display());
    }
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path) & 0o077, 0, "{}", path.display());
    }

    let relay = backend.relay(&own).await;
    alice.base = relay.url();
    assert_eq!(read(), first);
    alice.is_alive().await;
    alice.post("/api/v1/keys/link/me", &link).await.is(201);
    alice.refresh().await;
    alice.is_alive().await;
    relay.stop().await;

    fs::remove_file(&secrets[0]).unwrap();
    let relay = backend.relay(&own).await;
    alice.base = relay.url();
    alice.stats_as(&alice.access_token).await.refused(401, "bad-token");
    alice.refresh().await;
    alice.is_alive().await;
    assert_ne!(read()[0], first[0]);
    backend.finish().await;
}

#[test]
fn a_signing_key_that_is_none_is_refused_and_not_told() {
    let good = setting(&fresh_key());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    fs::write(&path, format!("{good}\nmistyped-secret-in-a-file\n")).unwrap();
    let short = b64([7; 31]);
    for (value, secret) in [
        ("mistyped-secret", "mistyped-secret"),
        (&*short, &*short),
        (&format!("{good},mistyped-secret"), "mistyped-secret"),
        (&format!("{good},mistyped-secret"), &good),
        (&format!("{good},{good}x"), &good),
        (&good[..good.len() - 1], &good[..good.len() - 1]),
        (&path.display().to_string(), "mistyped-secret-in-a-file"),
        (&path.display().to_string(), &good),
    ] {
        let told = [("PORT", "0"), (NAME, value)];
        let told: BTreeMap<_, _> =
            told.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let ended = process::run(&[], &told);
        assert!(!ended.status.success());
        let written = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(written.contains(NAME), "{written}");
        assert!(!written.contains(secret), "the fault tells the secret");
    }
}
