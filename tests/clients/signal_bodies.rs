//! One body of every kind that a Signal client sends, made by Signal's own library.

use std::time::SystemTime;

use futures_util::FutureExt;
use libsignal_protocol::{
    CiphertextMessageType, ContentHint, DecryptionErrorMessage, DeviceId, GenericSignedPreKey,
    IdentityKeyPair, IdentityKeyStore, InMemSignalProtocolStore, KeyPair, KyberPreKeyRecord,
    KyberPreKeyStore, PlaintextContent, PreKeyBundle, PreKeyRecord, PreKeyStore, ProtocolAddress,
    SealedSenderV2SentMessage, SenderCertificate, ServerCertificate, SignedPreKeyRecord, SignedPreKeyStore,
    Timestamp, UnidentifiedSenderMessageContent, create_sender_key_distribution_message, group_encrypt, kem,
    message_decrypt_prekey, message_encrypt, process_prekey_bundle, sealed_sender_encrypt,
    sealed_sender_multi_recipient_encrypt,
};
use rand::{TryRngCore, rngs::OsRng};
use uuid::Uuid;

/// Bodies of a session between two fresh devices.
pub(crate) struct SignalBodies {
    pub(crate) prekey: Vec<u8>,
    pub(crate) whisper: Vec<u8>,
    pub(crate) sender_key: Vec<u8>,
    pub(crate) sealed_v1: Vec<u8>,
    pub(crate) sealed_v2: Vec<u8>,
    pub(crate) plaintext_content: Vec<u8>,
}

struct Client {
    store: InMemSignalProtocolStore,
    identity: IdentityKeyPair,
    address: ProtocolAddress,
    user_id: String,
    device: DeviceId,
}

/// Runs PQXDH between two fresh devices and lets them send a body of every kind.
pub(crate) fn make() -> SignalBodies {
    make_bodies().now_or_never().expect("the in-memory store never waits")
}

async fn make_bodies() -> SignalBodies {
    let rng = &mut OsRng.unwrap_err();
    let mut alice = new_client(1);
    let mut bob = new_client(2);
    let bundle = publish(&mut bob).await;
    process_prekey_bundle(
        &bob.address,
        &mut alice.store.session_store,
        &mut alice.store.identity_store,
        &bundle,
        SystemTime::UNIX_EPOCH,
        rng,
    )
    .await
    .unwrap();

    let prekey = encrypt(&mut alice, &bob.address).await;
    assert_eq!(prekey.message_type(), CiphertextMessageType::PreKey);
    answer_to(&mut bob, &alice.address, prekey.serialize()).await;
    let whisper = encrypt(&mut bob, &alice.address).await;
    assert_eq!(whisper.message_type(), CiphertextMessageType::Whisper);

    let (sealed_v1, sealed_v2) = seal(&mut alice, &bob.address).await;
    SignalBodies {
        sender_key: encrypt_to_group(&mut alice).await,
        plaintext_content: decryption_error(whisper.serialize()),
        prekey: prekey.serialize().to_vec(),
        whisper: whisper.serialize().to_vec(),
        sealed_v1,
        sealed_v2,
    }
}

fn new_client(device: u8) -> Client {
    let identity = IdentityKeyPair::generate(&mut OsRng.unwrap_err());
    let user_id = Uuid::new_v4().to_string();
    let device = DeviceId::new(device).unwrap();
    Client {
        store: InMemSignalProtocolStore::new(identity, 4711).unwrap(),
        identity,
        address: ProtocolAddress::new(user_id.clone(), device),
        user_id,
        device,
    }
}

async fn publish(client: &mut Client) -> PreKeyBundle {
    let rng = &mut OsRng.unwrap_err();
    let identity_secret = client.identity.private_key();
    let onetime = KeyPair::generate(rng);
    let signed = KeyPair::generate(rng);
    let kyber = kem::KeyPair::generate(kem::KeyType::Kyber1024, rng);
    let signed_signature = identity_secret.calculate_signature(&signed.public_key.serialize(), rng).unwrap();
    let kyber_signature = identity_secret.calculate_signature(&kyber.public_key.serialize(), rng).unwrap();
    let now = Timestamp::from_epoch_millis(0);

    let onetime_record = PreKeyRecord::new(7.into(), &onetime);
    let signed_record = SignedPreKeyRecord::new(8.into(), now, &signed, &signed_signature);
    let kyber_record = KyberPreKeyRecord::new(9.into(), now, &kyber, &kyber_signature);
    client.store.save_pre_key(7.into(), &onetime_record).await.unwrap();
    client.store.save_signed_pre_key(8.into(), &signed_record).await.unwrap();
    client.store.save_kyber_pre_key(9.into(), &kyber_record).await.unwrap();
    PreKeyBundle::new(
        4711,
        client.device,
        Some((7.into(), onetime.public_key)),
        8.into(),
        signed.public_key,
        signed_signature.to_vec(),
        9.into(),
        kyber.public_key,
        kyber_signature.to_vec(),
        *client.identity.identity_key(),
    )
    .unwrap()
}

async fn encrypt(from: &mut Client, to: &ProtocolAddress) -> libsignal_protocol::CiphertextMessage {
    let store = &mut from.store;
    message_encrypt(
        b"the day after tomorrow",
        to,
        &mut store.session_store,
        &mut store.identity_store,
        SystemTime::UNIX_EPOCH,
        &mut OsRng.unwrap_err(),
    )
    .await
    .unwrap()
}

async fn answer_to(reader: &mut Client, sender: &ProtocolAddress, body: &[u8]) {
    let store = &mut reader.store;
    message_decrypt_prekey(
        &body.try_into().unwrap(),
        sender,
        &mut store.session_store,
        &mut store.identity_store,
        &mut store.pre_key_store,
        &store.signed_pre_key_store,
        &mut store.kyber_pre_key_store,
        &mut OsRng.unwrap_err(),
    )
    .await
    .unwrap();
}

async fn encrypt_to_group(from: &mut Client) -> Vec<u8> {
    let rng = &mut OsRng.unwrap_err();
    let group = Uuid::new_v4();
    create_sender_key_distribution_message(&from.address, group, &mut from.store, rng).await.unwrap();
    let message = group_encrypt(&mut from.store, &from.address, group, b"to all of you", rng).await.unwrap();
    message.serialized().to_vec()
}

/// The same message sealed for one device (v1), and sealed for many and cut for one (v2).
async fn seal(from: &mut Client, to: &ProtocolAddress) -> (Vec<u8>, Vec<u8>) {
    let rng = &mut OsRng.unwrap_err();
    let certificate = certify(from).await;
    let store = &mut from.store;
    let v1 = sealed_sender_encrypt(
        to,
        &certificate,
        b"unsigned",
        &mut store.session_store,
        &mut store.identity_store,
        SystemTime::UNIX_EPOCH,
        rng,
    )
    .await
    .unwrap();

    let inner = encrypt(from, to).await;
    let content = UnidentifiedSenderMessageContent::new(
        inner.message_type(),
        certificate,
        inner.serialize().to_vec(),
        ContentHint::Default,
        None,
    )
    .unwrap();
    let sessions = from.store.session_store.load_existing_sessions(&[to]).unwrap();
    let identities = &from.store.identity_store;
    let sent =
        sealed_sender_multi_recipient_encrypt(&[to], &sessions, [], &content, identities, rng).await.unwrap();
    let parsed = SealedSenderV2SentMessage::parse(&sent).unwrap();
    let (_, recipient) = parsed.recipients.first().unwrap();
    (v1, parsed.received_message_parts_for_recipient(recipient).as_ref().concat())
}

async fn certify(client: &Client) -> SenderCertificate {
    let rng = &mut OsRng.unwrap_err();
    let root = KeyPair::generate(rng);
    let server = KeyPair::generate(rng);
    let server_certificate = ServerCertificate::new(1, server.public_key, &root.private_key, rng).unwrap();
    let identity = client.store.get_identity_key_pair().await.unwrap();
    SenderCertificate::new(
        client.user_id.clone(),
        None,
        *identity.public_key(),
        client.device,
        Timestamp::from_epoch_millis(1),
        server_certificate,
        &server.private_key,
        rng,
    )
    .unwrap()
}

fn decryption_error(unreadable: &[u8]) -> Vec<u8> {
    let sent_at = Timestamp::from_epoch_millis(1_700_000_000_000);
    let error = DecryptionErrorMessage::for_original(unreadable, CiphertextMessageType::Whisper, sent_at, 2);
    PlaintextContent::from(error.unwrap()).serialized().to_vec()
}
