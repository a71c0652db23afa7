//! What a group begins to require, every leaf must be able to do: those that come by the same commit, too. mls-rs makes no
//! commit that says otherwise; openmls does, and mls-rs members would be lost.

use bytes::Bytes;
use mls_rs::MlsMessage;
use openmls::prelude::{tls_codec::Serialize, *};
use openmls_basic_credential::SignatureKeyPair;
use restante::{
    domain::{Caller, CipherSuite, MlsSignatureKey},
    groups::mls::{CommitFault, Sender as Calling, identity},
};

use super::{
    commits::user,
    device::{Calls, Manner, caller},
    world::{Sent, World, known, new_group_id},
};
use crate::support::mls::provider::Provider;

const SUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;
const NEW: ExtensionType = ExtensionType::Unknown(0xf001);

struct Member {
    caller: Caller,
    keys: Vec<MlsSignatureKey>,
    provider: Provider,
    signer: SignatureKeyPair,
}

impl Calls for Member {
    fn sender(&self) -> Calling<'_> {
        Calling { caller: &self.caller, keys: &self.keys, join_token: false }
    }
}

fn member(number: u128) -> Member {
    let signer = SignatureKeyPair::new(SUITE.signature_algorithm()).unwrap();
    let key = MlsSignatureKey {
        scheme: CipherSuite::X25519Aes128.signature_scheme(),
        public_key: signer.to_public_vec().into(),
        signature: [0; 64],
    };
    Member { caller: caller(user(number), "desk"), keys: vec![key], provider: Provider::default(), signer }
}

impl Member {
    fn credential(&self) -> CredentialWithKey {
        let name = identity(self.caller.user_id, &self.caller.device_id);
        CredentialWithKey {
            credential: BasicCredential::new(name).into(),
            signature_key: self.signer.public().into(),
        }
    }

    fn package(&self, extensions: &[ExtensionType]) -> KeyPackage {
        let capabilities = Capabilities::new(None, Some(&[SUITE]), Some(extensions), None, None);
        let builder = KeyPackage::builder().leaf_node_capabilities(capabilities);
        let made = builder.build(SUITE, &self.provider, &self.signer, self.credential()).unwrap();
        made.key_package().clone()
    }
}

fn wire(message: &impl Serialize) -> Bytes {
    message.tls_serialize_detached().unwrap().into()
}

#[test]
fn whoever_comes_with_a_new_requirement_can_do_what_it_asks() {
    let founder = member(1);
    let group_id = new_group_id();
    let config = MlsGroupCreateConfig::builder()
        .ciphersuite(SUITE)
        .capabilities(Capabilities::new(None, Some(&[SUITE]), Some(&[NEW]), None, None))
        .wire_format_policy(PURE_PLAINTEXT_WIRE_FORMAT_POLICY)
        .build();
    let id = GroupId::from_slice(group_id.uuid().as_bytes());
    let mut group =
        MlsGroup::new_with_group_id(&founder.provider, &founder.signer, &config, id, founder.credential())
            .unwrap();
    let group_info =
        wire(&group.export_group_info(founder.provider.crypto(), &founder.signer, true).unwrap());
    let mut world = World::founded(&founder, group_id, Manner::default(), &group_info, None);

    for (able, expected) in [(false, Err(CommitFault::Capabilities.into())), (true, Ok(()))] {
        let joiner = member(2 + u128::from(able));
        let package = joiner.package(if able { &[NEW] } else { &[] });
        let message = MlsMessage::from_bytes(&wire(&MlsMessageOut::from(package.clone()))).unwrap();
        world.packages.push(known(&joiner.caller, &message, CipherSuite::X25519Aes128));
        let required = RequiredCapabilitiesExtension::new(&[NEW], &[], &[]);
        let extensions = vec![
            Extension::RequiredCapabilities(required),
            Extension::Unknown(0xf001, UnknownExtension(vec![1])),
        ];
        let bundle = group
            .commit_builder()
            .propose_group_context_extensions(Extensions::from_vec(extensions).unwrap())
            .unwrap()
            .propose_adds([package])
            .load_psks(founder.provider.storage())
            .unwrap()
            .create_group_info(true)
            .build(founder.provider.rand(), founder.provider.crypto(), &founder.signer, |_| true)
            .unwrap()
            .stage_commit(&founder.provider)
            .unwrap();
        let (commit, welcome, group_info) = bundle.into_messages();
        let sent = Sent {
            commit: wire(&commit),
            group_info: wire(&group_info.unwrap()),
            welcome: welcome.as_ref().map(wire),
            removed: Vec::new(),
        };
        assert_eq!(world.judge(&founder, &sent).map(|_| ()), expected, "{able}");
        group.clear_pending_commit(founder.provider.storage()).unwrap();
    }
}
