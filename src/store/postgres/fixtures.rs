//! Databases and devices for the tests that need a real server.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::PostgresStore;
use crate::{
    domain::{
        Batch, Bodies, Caller, Conversation, ConversationId, DeviceId, Envelope, EnvelopeType, IdentityKey,
        KeyId, LinkedBy, ManualClock, MessageId, MessageType, OneTimePreKey, RegistrationId, Send, SessionId,
        SignedPreKey, Timestamp, UserId,
    },
    store::{Accepted, Limits, LinkOffer, Login, NewSession, Registered, Registration, SingleUse, Store},
};

pub(super) const NOW: Timestamp = Timestamp::from_millis(1_750_000_000_000);

pub(super) const LIMITS: Limits = Limits {
    max_devices: 5,
    max_prekeys: 200,
    mailbox_items: 10_000,
    mailbox_items_per_sender: 1_000,
    notice_life: Duration::from_hours(24 * 30),
    max_members: 1_500,
    max_groups: 2_000,
    past_epochs: 2,
};

/// A database of one test's own, and the server it lies on.
pub(super) struct Database {
    server: String,
    name: String,
}

impl Database {
    /// None when no server is named: the embedded half of the tests runs all the same.
    pub(super) async fn create() -> Option<Self> {
        let Ok(server) = std::env::var("RESTANTE_TEST_DATABASE_URL") else {
            eprintln!("skipped: RESTANTE_TEST_DATABASE_URL is not set");
            return None;
        };
        let name = format!("restante_{}", Uuid::new_v4().simple());
        let database = Self { server, name };
        database.order(format!("CREATE DATABASE {}", database.name)).await;
        Some(database)
    }

    async fn order(&self, statement: String) {
        let mut connection = PgConnection::connect(&self.server).await.unwrap();
        connection.execute(AssertSqlSafe(statement)).await.unwrap();
        connection.close().await.unwrap();
    }

    pub(super) fn url(&self) -> SecretString {
        let (server, _) = self.server.rsplit_once('/').unwrap();
        format!("{server}/{}", self.name).into()
    }

    pub(super) async fn node(&self, limits: Limits) -> (PostgresStore, mpsc::Receiver<Batch>) {
        let (committed, deliveries) = crate::store::committed(10_000, usize::MAX);
        let clock = Arc::new(ManualClock::at(NOW));
        let store = PostgresStore::connect(
            &self.url(),
            20,
            limits,
            committed,
            clock,
            crate::domain::Pseudonyms::new([7; 32]),
        )
        .await
        .unwrap();
        (store, deliveries)
    }

    pub(super) async fn one_node(&self) -> PostgresStore {
        let (store, mut deliveries) = self.node(LIMITS).await;
        tokio::spawn(async move { while deliveries.recv().await.is_some() {} });
        store
    }

    pub(super) async fn drop(self) {
        self.order(format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }
}

pub(super) fn user() -> UserId {
    UserId::new(Uuid::new_v4())
}

pub(super) fn random_key() -> Bytes {
    Bytes::from([*Uuid::new_v4().as_bytes(), *Uuid::new_v4().as_bytes()].concat())
}

pub(super) fn signed(id: i64) -> SignedPreKey {
    SignedPreKey { id: KeyId::new(id).unwrap(), public_key: random_key(), signature: [7; 64] }
}

pub(super) fn onetime(id: i64) -> OneTimePreKey {
    OneTimePreKey { id: KeyId::new(id).unwrap(), public_key: random_key() }
}

pub(super) fn registration(user_id: UserId, device: &str) -> Registration {
    Registration {
        mls_signature_keys: Vec::new(),
        packages: crate::store::PackageUpload::default(),
        user_id,
        device_id: DeviceId::parse(device).unwrap(),
        device_name: Some("a phone".into()),
        registration_id: RegistrationId::new(77).unwrap(),
        identity_key: IdentityKey::Ed25519([3; 32]),
        signed_prekey: signed(1),
        onetime_prekeys: (1..=3).map(onetime).collect(),
        kem_prekeys: vec![signed(1)],
        last_resort_kem_prekey: Some(signed(1000)),
        link_token_hash: None,
        may_claim: true,
        revival: None,
        session: new_session(),
    }
}

pub(super) async fn register(store: &PostgresStore, registration: Registration) -> Caller {
    match store.register_device(registration, NOW).await.unwrap() {
        Registered::Registered(principal) => principal.caller,
        refused => panic!("{refused:?}"),
    }
}

pub(super) async fn linked(store: &PostgresStore, by: &Caller, device: &str, at: Timestamp) -> Caller {
    try_linked(store, by, device, at).await.unwrap()
}

/// None when another offer took the place of this one.
pub(super) async fn try_linked(
    store: &PostgresStore,
    by: &Caller,
    device: &str,
    at: Timestamp,
) -> Option<Caller> {
    let mut newcomer = registration(by.user_id, device);
    newcomer.link_token_hash = Some(random_hash());
    let offer = LinkOffer {
        user_id: by.user_id,
        by: by.device_no,
        device_id: newcomer.device_id.clone(),
        identity_key: newcomer.identity_key,
        linked_by: LinkedBy {
            device_id: by.device_id.clone(),
            identity_key: newcomer.identity_key,
            signature: [5; 64],
        },
        token_hash: newcomer.link_token_hash?,
        expires_at: at.plus(Duration::from_mins(10)),
    };
    assert!(store.offer_link(offer, at).await.unwrap());
    match store.register_device(newcomer, at).await.unwrap() {
        Registered::Registered(principal) => Some(principal.caller),
        Registered::LinkRequired => None,
        refused => panic!("{refused:?}"),
    }
}

pub(super) fn random_hash() -> [u8; 32] {
    *blake3::hash(&random_key()).as_bytes()
}

fn new_session() -> NewSession {
    NewSession {
        session_id: SessionId::new(Uuid::new_v4()),
        refresh_hash: random_hash(),
        expires_at: NOW.plus(Duration::from_hours(24 * 7)),
    }
}

pub(super) fn login(device: &Caller) -> Login {
    let challenge = SingleUse { hash: random_hash(), expires_at: NOW.plus(Duration::from_mins(1)) };
    Login { device_no: device.device_no, challenge, session: new_session() }
}

pub(super) fn send(from: &Caller, to: UserId) -> Send {
    Send {
        sender: from.clone(),
        message_id: MessageId::new(Uuid::new_v4()),
        digest: [1; 32],
        recipient_id: to,
        conversation: Conversation::Own(ConversationId::new(Uuid::from_u128(42))),
        message_type: MessageType::Media,
        self_destructing: false,
        expires_at: NOW.plus(Duration::from_hours(1)),
        bodies: Bodies::Same(Envelope {
            envelope_type: EnvelopeType::Whisper,
            ciphertext: Bytes::from(vec![0xfe; 600]),
            ephemeral_key: Some(Bytes::from(vec![2; 32])),
        }),
    }
}

pub(super) async fn stored(store: &PostgresStore, send: Send) {
    let accepted = store.accept_envelopes(send).await.unwrap();
    assert!(matches!(accepted, Accepted::Stored(_)), "{accepted:?}");
}

pub(super) fn later(seconds: u64) -> Timestamp {
    NOW.plus(Duration::from_secs(seconds))
}
