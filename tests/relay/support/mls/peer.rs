//! mls-rs as a client.

use std::time::Duration;

use mls_rs::{
    CipherSuite, CipherSuiteProvider, Client, CryptoProvider, Extension, ExtensionList, Group, MlsMessage,
    client_builder::MlsConfig,
    client_builder::PaddingMode,
    crypto::SignatureSecretKey,
    extension::ExtensionType,
    group::{CommitEffect, ExportedTree, ReceivedMessage},
    identity::{
        SigningIdentity,
        basic::{BasicCredential, BasicIdentityProvider},
    },
    mls_rules::{CommitOptions, DefaultMlsRules, EncryptionOptions},
};
use mls_rs_crypto_rustcrypto::RustCryptoProvider;
use uuid::Uuid;

use super::{Bundle, Change, Made, Manner, MlsClient, Received};

/// How long key packages live; the library's own default is longer than relays take.
const PACKAGE_LIFE: Duration = Duration::from_hours(60 * 24);

/// A client for the device of this identity.
pub(crate) fn mls_rs(identity: &str, manner: Manner) -> Box<dyn MlsClient> {
    let suite = CipherSuite::new(manner.suite);
    let primitives = RustCryptoProvider::new().cipher_suite_provider(suite).unwrap();
    let (secret, public) = primitives.signature_key_generate().unwrap();
    let credential = BasicCredential::new(identity.as_bytes().to_vec()).into_credential();
    let signing = SigningIdentity::new(credential, public);
    Box::new(Peer { client: client(signing.clone(), secret, suite, manner), signing, manner, group: None })
}

fn client(
    signing: SigningIdentity,
    secret: SignatureSecretKey,
    suite: CipherSuite,
    manner: Manner,
) -> Client<impl MlsConfig> {
    let commits =
        CommitOptions::new().with_allow_external_commit(true).with_ratchet_tree_extension(manner.private);
    let encryption = EncryptionOptions::new(manner.private, PaddingMode::StepFunction);
    Client::builder()
        .crypto_provider(RustCryptoProvider::new())
        .identity_provider(BasicIdentityProvider::new())
        .mls_rules(DefaultMlsRules::new().with_commit_options(commits).with_encryption_options(encryption))
        .key_package_lifetime(PACKAGE_LIFE)
        .extension_type(ExtensionType::new(10))
        .signing_identity(signing, secret, suite)
        .build()
}

struct Peer<C: MlsConfig> {
    client: Client<C>,
    signing: SigningIdentity,
    manner: Manner,
    group: Option<Group<C>>,
}

fn message(bytes: &[u8]) -> MlsMessage {
    MlsMessage::from_bytes(bytes).unwrap()
}

fn tree(bytes: &[u8]) -> ExportedTree<'static> {
    ExportedTree::from_bytes(bytes).unwrap().into_owned()
}

/// The extension `last_resort`, of type 10 and empty.
fn last_resort() -> ExtensionList {
    let mut extensions = ExtensionList::new();
    extensions.set(Extension::new(ExtensionType::new(10), Vec::new()));
    extensions
}

impl<C: MlsConfig + Send> Peer<C> {
    fn group(&self) -> &Group<C> {
        self.group.as_ref().unwrap()
    }

    fn group_mut(&mut self) -> &mut Group<C> {
        self.group.as_mut().unwrap()
    }
}

fn group_info<C: MlsConfig>(group: &Group<C>) -> Vec<u8> {
    group.group_info_message_allowing_ext_commit(false).unwrap().to_bytes().unwrap()
}

impl<C: MlsConfig + Send> MlsClient for Peer<C>
where
    Client<C>: Send,
    Group<C>: Send,
{
    fn library(&self) -> &'static str {
        "mls-rs"
    }

    fn signature_key(&self) -> (u16, Vec<u8>) {
        let scheme = if self.manner.suite == 2 { 0x0403 } else { 0x0807 };
        (scheme, self.signing.signature_key.to_vec())
    }

    fn key_package(&mut self, is_last_resort: bool) -> Vec<u8> {
        let extensions = if is_last_resort { last_resort() } else { ExtensionList::new() };
        let package = self.client.generate_key_package_message(extensions, ExtensionList::new(), None);
        package.unwrap().to_bytes().unwrap()
    }

    fn create(&mut self, group: Uuid) -> Made {
        let id = group.as_bytes().to_vec();
        let made =
            self.client.create_group_with_id(id, ExtensionList::new(), ExtensionList::new(), None).unwrap();
        let answer = Made { group_info: group_info(&made), tree: made.export_tree().to_bytes().unwrap() };
        self.group = Some(made);
        answer
    }

    fn commit(&mut self, change: Change) -> Bundle {
        let mut builder = self.group_mut().commit_builder();
        match change {
            Change::Update => {}
            Change::Add(packages) => {
                for package in packages {
                    builder = builder.add_member(message(&package)).unwrap();
                }
            }
            Change::Remove(leaves) => {
                for leaf in leaves {
                    builder = builder.remove_member(leaf).unwrap();
                }
            }
        }
        let output = builder.build().unwrap();
        // The library gives one only with `external_pub`, which a relay takes in every group.
        let group_info = output.external_commit_group_info.unwrap().to_bytes().unwrap();
        Bundle {
            commit: output.commit_message.to_bytes().unwrap(),
            group_info,
            welcome: output.welcome_messages.first().map(|welcome| welcome.to_bytes().unwrap()),
        }
    }

    fn accepted(&mut self) {
        self.group_mut().apply_pending_commit().unwrap();
    }

    fn refused(&mut self) {
        self.group_mut().clear_pending_commit();
    }

    fn join(&mut self, welcome: &[u8], tree_bytes: Option<&[u8]>) {
        let (group, _) = self.client.join_group(tree_bytes.map(tree), &message(welcome), None).unwrap();
        self.group = Some(group);
    }

    fn join_externally(&mut self, info: &[u8], tree_bytes: &[u8], instead_of: Option<u32>) -> Bundle {
        let mut builder = self.client.external_commit_builder().unwrap().with_tree_data(tree(tree_bytes));
        if let Some(leaf) = instead_of {
            builder = builder.with_removal(leaf);
        }
        let (group, commit) = builder.build(message(info)).unwrap();
        let bundle =
            Bundle { commit: commit.to_bytes().unwrap(), group_info: group_info(&group), welcome: None };
        self.group = Some(group);
        bundle
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<Received, String> {
        let message = MlsMessage::from_bytes(bytes).map_err(|error| error.to_string())?;
        let received =
            self.group_mut().process_incoming_message(message).map_err(|error| error.to_string())?;
        Ok(match received {
            ReceivedMessage::ApplicationMessage(message) => Received::Application(message.data().to_vec()),
            ReceivedMessage::Commit(commit) => match commit.effect {
                CommitEffect::NewEpoch(_) => Received::Commit,
                CommitEffect::Removed { .. } => Received::Removed,
                other @ CommitEffect::ReInit(_) => return Err(format!("{other:?}")),
            },
            ReceivedMessage::Proposal(_) => Received::Proposal,
            other => return Err(format!("{other:?}")),
        })
    }

    fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let sealed = self.group_mut().encrypt_application_message(plaintext, Vec::new());
        sealed.unwrap().to_bytes().unwrap()
    }

    fn propose_leave(&mut self) -> Vec<u8> {
        let own = self.leaf();
        self.group_mut().propose_remove(own, Vec::new()).unwrap().to_bytes().unwrap()
    }

    fn tree(&self) -> Vec<u8> {
        self.group().export_tree().to_bytes().unwrap()
    }

    fn epoch(&self) -> u64 {
        self.group().current_epoch()
    }

    fn authenticator(&self) -> Vec<u8> {
        self.group().epoch_authenticator().unwrap().to_vec()
    }

    fn leaf(&self) -> u32 {
        self.group().current_member_index()
    }

    fn members(&self) -> Vec<(u32, String)> {
        let member = |member: mls_rs::group::Member| {
            let credential = member.signing_identity.credential.as_basic().unwrap();
            (member.index, String::from_utf8(credential.identifier.clone()).unwrap())
        };
        self.group().roster().members_iter().map(member).collect()
    }
}
