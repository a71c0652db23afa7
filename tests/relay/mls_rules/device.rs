//! A device with an mls-rs client. It is as free as a client with bad intent: of what mls-rs would refuse to make for the sake
//! of identities it refuses nothing.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use bytes::Bytes;
use mls_rs::{
    CipherSuite as MlsSuite, CipherSuiteProvider as _, Client, CryptoProvider as _, ExtensionList, Group,
    IdentityProvider, MlsMessage,
    client_builder::{BaseConfig, WithCryptoProvider, WithIdentityProvider, WithMlsRules},
    crypto::SignatureSecretKey,
    identity::{CredentialType, SigningIdentity, basic::BasicCredential},
    mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions},
    time::MlsTime,
};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use restante::{
    domain::{
        Caller, CipherSuite, DeviceId, DeviceNo, DeviceNumber, ExternalJoin, Handshake, MlsSignatureKey,
        UserId,
    },
    groups::mls::{Sender, identity},
};

/// Takes every credential, and tells devices apart by their keys.
#[derive(Clone)]
pub(crate) struct Lenient;

impl IdentityProvider for Lenient {
    type Error = Infallible;

    fn validate_member(
        &self,
        _: &SigningIdentity,
        _: Option<MlsTime>,
        _: mls_rs_core::identity::MemberValidationContext<'_>,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn validate_external_sender(
        &self,
        _: &SigningIdentity,
        _: Option<MlsTime>,
        _: Option<&ExtensionList>,
    ) -> Result<(), Infallible> {
        Ok(())
    }

    fn identity(&self, identity: &SigningIdentity, _: &ExtensionList) -> Result<Vec<u8>, Infallible> {
        Ok(identity.signature_key.to_vec())
    }

    fn valid_successor(
        &self,
        _: &SigningIdentity,
        _: &SigningIdentity,
        _: &ExtensionList,
    ) -> Result<bool, Infallible> {
        Ok(true)
    }

    fn supported_types(&self) -> Vec<CredentialType> {
        vec![CredentialType::BASIC]
    }
}

pub(crate) type Settings = WithMlsRules<
    DefaultMlsRules,
    WithIdentityProvider<Lenient, WithCryptoProvider<RustCryptoProvider, BaseConfig>>,
>;

/// How a client makes its commits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) suite: CipherSuite,
    pub(crate) handshake: Handshake,
    pub(crate) external_join: ExternalJoin,
    pub(crate) lifetime: Duration,
    pub(crate) tree_in_group_info: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            suite: CipherSuite::X25519Aes128,
            handshake: Handshake::Public,
            external_join: ExternalJoin::Resync,
            lifetime: Duration::from_hours(24 * 30),
            tree_in_group_info: false,
        }
    }
}

impl Manner {
    fn rules(self) -> DefaultMlsRules {
        let commits = CommitOptions::new()
            .with_allow_external_commit(true)
            .with_ratchet_tree_extension(self.tree_in_group_info);
        let is_private = self.handshake == Handshake::Private;
        DefaultMlsRules::new().with_commit_options(commits).with_encryption_options(EncryptionOptions::new(
            is_private,
            mls_rs::client_builder::PaddingMode::None,
        ))
    }

    pub(crate) fn mls_suite(self) -> MlsSuite {
        MlsSuite::new(self.suite.number())
    }
}

/// A key pair and a name in a leaf.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) identity: SigningIdentity,
    pub(crate) secret: SignatureSecretKey,
}

impl Leaf {
    pub(crate) fn new(name: Vec<u8>, suite: CipherSuite) -> Self {
        let provider =
            RustCryptoProvider::new().cipher_suite_provider(MlsSuite::new(suite.number())).unwrap();
        let (secret, public) = provider.signature_key_generate().unwrap();
        Self { identity: SigningIdentity::new(BasicCredential::new(name).into_credential(), public), secret }
    }

    pub(crate) fn key(&self, suite: CipherSuite) -> MlsSignatureKey {
        MlsSignatureKey {
            scheme: suite.signature_scheme(),
            public_key: Bytes::copy_from_slice(&self.identity.signature_key),
            signature: [0; 64],
        }
    }
}

pub(crate) struct Device {
    pub(crate) caller: Caller,
    /// What the relay has registered for it.
    pub(crate) keys: Vec<MlsSignatureKey>,
    pub(crate) leaf: Leaf,
    pub(crate) client: Client<Settings>,
    pub(crate) join_token: bool,
}

static NEXT: AtomicI64 = AtomicI64::new(1);

/// A new incarnation.
pub(crate) fn caller(user_id: UserId, name: &str) -> Caller {
    Caller {
        user_id,
        device_id: DeviceId::parse(name).unwrap(),
        device_number: DeviceNumber::new(1).unwrap(),
        device_no: DeviceNo(NEXT.fetch_add(1, Ordering::Relaxed)),
    }
}

impl Device {
    pub(crate) fn new(user_id: UserId, name: &str, manner: Manner) -> Self {
        let leaf = Leaf::new(identity(user_id, &DeviceId::parse(name).unwrap()), manner.suite);
        Self::with_leaf(user_id, name, manner, leaf)
    }

    /// A device whose client puts another leaf into groups than the relay expects of it.
    pub(crate) fn with_leaf(user_id: UserId, name: &str, manner: Manner, leaf: Leaf) -> Self {
        let client = Client::builder()
            .crypto_provider(RustCryptoProvider::new())
            .identity_provider(Lenient)
            .mls_rules(manner.rules())
            .extension_type(mls_rs::extension::ExtensionType::new(0xf001))
            .custom_proposal_type(mls_rs::group::proposal::ProposalType::new(0xf002))
            .key_package_lifetime(manner.lifetime)
            .signing_identity(leaf.identity.clone(), leaf.secret.clone(), manner.mls_suite())
            .build();
        let caller = caller(user_id, name);
        Self { caller, keys: vec![leaf.key(manner.suite)], leaf, client, join_token: false }
    }

    pub(crate) fn package(&self) -> MlsMessage {
        self.client
            .generate_key_package_message(ExtensionList::default(), ExtensionList::default(), None)
            .unwrap()
    }
}

/// What calls the relay.
pub(crate) trait Calls {
    fn sender(&self) -> Sender<'_>;
}

impl Calls for Device {
    fn sender(&self) -> Sender<'_> {
        Sender { caller: &self.caller, keys: &self.keys, join_token: self.join_token }
    }
}

pub(crate) type Session = Group<Settings>;

/// What has bytes on the wire.
pub(crate) trait Wire {
    fn wire(&self) -> Bytes;
}

impl Wire for MlsMessage {
    fn wire(&self) -> Bytes {
        self.to_bytes().unwrap().into()
    }
}

impl Wire for Bytes {
    fn wire(&self) -> Bytes {
        self.clone()
    }
}

/// The bytes of a message.
pub(crate) fn bytes(message: &MlsMessage) -> Bytes {
    message.wire()
}

/// A `SelfRemove` (draft-ietf-mls-extensions) in the open, made by hand: mls-rs 0.57 gives it a number of its own. Its membership
/// tag is made up, which only members would notice.
pub(crate) fn self_remove(device: &Device, session: &Session) -> Bytes {
    use mls_rs::mls_rs_codec::MlsEncode as _;

    let mut message = vec![0, 1, 0, 1, 16];
    message.extend(session.group_id());
    message.extend(session.current_epoch().to_be_bytes());
    message.push(1);
    message.extend(session.current_member_index().to_be_bytes());
    // No authenticated data; a proposal; its type.
    message.extend([0, 2, 0, 0x0a]);
    let signed = [&message[..], &session.context().mls_encode_to_vec().unwrap()].concat();
    let mut content = Vec::new();
    for part in [&b"MLS 1.0 FramedContentTBS"[..], &signed] {
        part.to_vec().mls_encode(&mut content).unwrap();
    }
    let suite = RustCryptoProvider::new().cipher_suite_provider(session.cipher_suite()).unwrap();
    let signature = suite.sign(&device.leaf.secret, &content).unwrap();
    for part in [&signature[..], &[0; 32]] {
        part.to_vec().mls_encode(&mut message).unwrap();
    }
    message.into()
}
