//! The embedded engine's data folder.

use std::sync::Arc;

use restante::{
    domain::ManualClock,
    store::{Store, StoreError, sqlite::SqliteStore},
};

use crate::support::{
    engine::{self, NOON},
    mothers,
};

async fn open(folder: &std::path::Path) -> Result<SqliteStore, StoreError> {
    let (committed, _deliveries) = restante::store::committed(10_000, usize::MAX);
    SqliteStore::open(
        folder,
        engine::roomy(),
        committed,
        Arc::new(ManualClock::at(NOON)),
        engine::pseudonyms(),
    )
    .await
}

#[tokio::test]
async fn a_second_relay_on_the_same_folder_is_refused_until_the_first_has_closed() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let first = open(&folder).await.unwrap();
    let Err(StoreError::Unavailable(refused)) = open(&folder).await else { panic!("opened twice") };
    assert_eq!(refused.to_string(), "the data folder is in use by another relay");
    assert!(SqliteStore::migrate(&folder).await.is_err());
    first.close().await;
    SqliteStore::migrate(&folder).await.unwrap();
    open(&folder).await.unwrap().check().await.unwrap();
}

#[tokio::test]
async fn what_was_accepted_is_there_after_the_relay_starts_again() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine::sqlite(engine::roomy()).await;
    drop(folder);
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let send = mothers::send(&alice, bob.user_id);
    let receipt = engine.stored(send.clone()).await;
    engine.store.close().await;
    let store = open(engine.folder.as_ref().unwrap().path()).await.unwrap();
    let again = store.accept_envelopes(send).await.unwrap();
    assert_eq!(again, restante::store::Accepted::Repeated(receipt));
    let left = store.mailbox_left(bob.device_no, restante::domain::Position::START, 10, NOON).await.unwrap();
    assert_eq!(left.positions().len(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn folder_and_database_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("data");
    let store = open(&folder).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&folder), 0o700);
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
    store.close().await;
}

#[tokio::test]
async fn an_acked_body_is_nowhere_in_the_folder_after_expiry_has_run() {
    let engine = engine::sqlite(engine::roomy()).await;
    let (alice, bob) = (engine.newcomer().await, engine.newcomer().await);
    let send = mothers::send(&alice, bob.user_id);
    let restante::domain::Bodies::Same(envelope) = send.bodies.clone() else { unreachable!() };
    engine.stored(send).await;
    let path = engine.folder.as_ref().unwrap().path();
    let lies_there = || {
        let files =
            std::fs::read_dir(path).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
        let body = envelope.ciphertext.as_ref();
        files.into_iter().any(|file| file.windows(body.len()).any(|window| window == body))
    };
    assert!(lies_there());
    engine.ack_all(bob.device_no).await;
    engine.store.expire(engine.now(), 10).await.unwrap();
    assert!(!lies_there());
}
