//! openmls as a client.

use openmls::prelude::{tls_codec::*, *};
use openmls_basic_credential::SignatureKeyPair;
use openmls_traits::OpenMlsProvider;
use uuid::Uuid;

use super::{Bundle, Change, Made, Manner, MlsClient, Received, provider::Provider};

/// Epochs whose messages are still read: the relay takes them from the current one and the two before.
const PAST_EPOCHS: usize = 3;

/// A client for the device of this identity.
pub(crate) fn openmls(identity: &str, manner: Manner) -> Box<dyn MlsClient> {
    let suite = Ciphersuite::try_from(manner.suite).unwrap();
    let signer = SignatureKeyPair::new(suite.signature_algorithm()).unwrap();
    let credential = BasicCredential::new(identity.as_bytes().to_vec());
    let credential =
        CredentialWithKey { credential: credential.into(), signature_key: signer.public().into() };
    Box::new(Client { provider: Provider::default(), suite, manner, signer, credential, group: None })
}

struct Client {
    provider: Provider,
    suite: Ciphersuite,
    manner: Manner,
    signer: SignatureKeyPair,
    credential: CredentialWithKey,
    group: Option<MlsGroup>,
}

fn capabilities(suite: Ciphersuite) -> Capabilities {
    Capabilities::new(
        None,
        Some(&[suite]),
        Some(&[ExtensionType::LastResort]),
        Some(&[ProposalType::SelfRemove]),
        None,
    )
}

fn bytes(message: &impl Serialize) -> Vec<u8> {
    message.tls_serialize_detached().unwrap()
}

fn message(bytes: &[u8]) -> MlsMessageBodyIn {
    MlsMessageIn::tls_deserialize_exact_bytes(bytes).unwrap().extract()
}

fn tree(bytes: &[u8]) -> RatchetTreeIn {
    RatchetTreeIn::tls_deserialize_exact_bytes(bytes).unwrap()
}

impl Client {
    fn wire_format(&self) -> WireFormatPolicy {
        if self.manner.private {
            PURE_CIPHERTEXT_WIRE_FORMAT_POLICY
        } else {
            PURE_PLAINTEXT_WIRE_FORMAT_POLICY
        }
    }

    fn join_config(&self) -> MlsGroupJoinConfig {
        MlsGroupJoinConfig::builder()
            .wire_format_policy(self.wire_format())
            .max_past_epochs(PAST_EPOCHS)
            .build()
    }

    fn group(&self) -> &MlsGroup {
        self.group.as_ref().unwrap()
    }
}

impl MlsClient for Client {
    fn library(&self) -> &'static str {
        "openmls"
    }

    fn signature_key(&self) -> (u16, Vec<u8>) {
        (self.signer.signature_scheme() as u16, self.signer.to_public_vec())
    }

    fn key_package(&mut self, last_resort: bool) -> Vec<u8> {
        let builder = KeyPackage::builder().leaf_node_capabilities(capabilities(self.suite));
        let builder = if last_resort { builder.mark_as_last_resort() } else { builder };
        let package =
            builder.build(self.suite, &self.provider, &self.signer, self.credential.clone()).unwrap();
        bytes(&MlsMessageOut::from(package.key_package().clone()))
    }

    fn create(&mut self, group: Uuid) -> Made {
        let config = MlsGroupCreateConfig::builder()
            .ciphersuite(self.suite)
            .capabilities(capabilities(self.suite))
            .wire_format_policy(self.wire_format())
            .max_past_epochs(PAST_EPOCHS)
            .build();
        let id = GroupId::from_slice(group.as_bytes());
        let made =
            MlsGroup::new_with_group_id(&self.provider, &self.signer, &config, id, self.credential.clone())
                .unwrap();
        let group_info = made.export_group_info(self.provider.crypto(), &self.signer, false).unwrap();
        let made_bytes = Made { group_info: bytes(&group_info), tree: bytes(&made.export_ratchet_tree()) };
        self.group = Some(made);
        made_bytes
    }

    fn commit(&mut self, change: Change) -> Bundle {
        let group = self.group.as_mut().unwrap();
        let builder = group.commit_builder();
        let builder = match change {
            Change::Update => builder.force_self_update(true),
            Change::Add(packages) => {
                let packages = packages.iter().map(|package| {
                    let MlsMessageBodyIn::KeyPackage(package) = message(package) else {
                        panic!("not a key package")
                    };
                    package.validate(self.provider.crypto(), ProtocolVersion::Mls10).unwrap()
                });
                builder.propose_adds(packages.collect::<Vec<_>>())
            }
            Change::Remove(leaves) => {
                builder.propose_removals(leaves.into_iter().map(LeafNodeIndex::new).collect::<Vec<_>>())
            }
        };
        let bundle = builder
            .load_psks(self.provider.storage())
            .unwrap()
            .create_group_info(true)
            .use_ratchet_tree_extension(self.manner.private)
            .build(self.provider.rand(), self.provider.crypto(), &self.signer, |_| true)
            .unwrap()
            .stage_commit(&self.provider)
            .unwrap();
        let (commit, welcome, group_info) = bundle.into_messages();
        Bundle {
            commit: bytes(&commit),
            group_info: bytes(&group_info.unwrap()),
            welcome: welcome.as_ref().map(bytes),
        }
    }

    fn accepted(&mut self) {
        self.group.as_mut().unwrap().merge_pending_commit(&self.provider).unwrap();
    }

    fn refused(&mut self) {
        self.group.as_mut().unwrap().clear_pending_commit(self.provider.storage()).unwrap();
    }

    fn join(&mut self, welcome: &[u8], tree_bytes: Option<&[u8]>) {
        let MlsMessageBodyIn::Welcome(welcome) = message(welcome) else { panic!("not a Welcome") };
        let tree = tree_bytes.map(tree);
        // A group that was made anew under its id takes the former one's place.
        if let Some(mut former) = self.group.take() {
            former.delete(self.provider.storage()).unwrap();
        }
        let staged =
            StagedWelcome::new_from_welcome(&self.provider, &self.join_config(), welcome, tree).unwrap();
        self.group = Some(staged.into_group(&self.provider).unwrap());
    }

    fn join_externally(&mut self, group_info: &[u8], tree_bytes: &[u8], instead_of: Option<u32>) -> Bundle {
        let MlsMessageBodyIn::GroupInfo(info) = message(group_info) else { panic!("not a GroupInfo") };
        // openmls finds the old leaf by the credential and removes it.
        assert_eq!(instead_of.is_some(), self.group.is_some());
        self.provider = Provider::default();
        let (group, bundle) = MlsGroup::external_commit_builder()
            .with_ratchet_tree(tree(tree_bytes))
            .with_config(self.join_config())
            .build_group(&self.provider, info, self.credential.clone())
            .unwrap()
            .leaf_node_parameters(
                LeafNodeParameters::builder().with_capabilities(capabilities(self.suite)).build(),
            )
            .load_psks(self.provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(self.provider.rand(), self.provider.crypto(), &self.signer, |_| true)
            .unwrap()
            .finalize(&self.provider)
            .unwrap();
        self.group = Some(group);
        let (commit, _, group_info) = bundle.into_messages();
        Bundle { commit: bytes(&commit), group_info: bytes(&group_info.unwrap()), welcome: None }
    }

    fn receive(&mut self, message: &[u8]) -> Result<Received, String> {
        let message =
            MlsMessageIn::tls_deserialize_exact_bytes(message).map_err(|error| error.to_string())?;
        let message = message.try_into_protocol_message().map_err(|error| error.to_string())?;
        let group = self.group.as_mut().unwrap();
        let processed = group.process_message(&self.provider, message).map_err(|error| error.to_string())?;
        Ok(match processed.into_content() {
            ProcessedMessageContent::ApplicationMessage(message) => {
                Received::Application(message.into_bytes())
            }
            ProcessedMessageContent::ProposalMessage(proposal) => {
                group.store_pending_proposal(self.provider.storage(), *proposal).unwrap();
                Received::Proposal
            }
            ProcessedMessageContent::StagedCommitMessage(staged) => {
                let removed = staged.self_removed();
                group.merge_staged_commit(&self.provider, *staged).unwrap();
                if removed { Received::Removed } else { Received::Commit }
            }
            other => return Err(format!("{other:?}")),
        })
    }

    fn seal(&mut self, plaintext: &[u8]) -> Vec<u8> {
        bytes(&self.group.as_mut().unwrap().create_message(&self.provider, &self.signer, plaintext).unwrap())
    }

    fn propose_leave(&mut self) -> Vec<u8> {
        bytes(&self.group.as_mut().unwrap().leave_group(&self.provider, &self.signer).unwrap())
    }

    fn propose_self_remove(&mut self) -> Option<Vec<u8>> {
        let group = self.group.as_mut().unwrap();
        Some(bytes(&group.leave_group_via_self_remove(&self.provider, &self.signer).unwrap()))
    }

    fn tree(&self) -> Vec<u8> {
        bytes(&self.group().export_ratchet_tree())
    }

    fn epoch(&self) -> u64 {
        self.group().epoch().as_u64()
    }

    fn authenticator(&self) -> Vec<u8> {
        self.group().epoch_authenticator().as_slice().to_vec()
    }

    fn leaf(&self) -> u32 {
        self.group().own_leaf_index().u32()
    }

    fn members(&self) -> Vec<(u32, String)> {
        let identity = |member: &Member| {
            String::from_utf8(
                BasicCredential::try_from(member.credential.clone()).unwrap().identity().to_vec(),
            )
        };
        self.group().members().map(|member| (member.index.u32(), identity(&member).unwrap())).collect()
    }
}
