//! What the store would hold of one group, and the relay's rules asked about it.

use std::time::Duration;

use bytes::Bytes;
use mls_rs::{
    ExtensionList, MlsMessage,
    group::{CommitOutput, ExportedTree},
};
use restante::{
    domain::{
        Caller, CipherSuite, DeviceNo, Epoch, GroupId, Handshake, KeyPackageRef, Member, MemberDevice, Role,
        Timestamp,
    },
    groups::mls::{
        CommitBundle, Founded, FoundingRules, GroupAt, JudgedCommit, JudgedProposal, KnownPackage, Refusal,
        Welcome, found, found_private, founder, judge_commit, judge_private_commit, judge_private_proposal,
        judge_proposals,
    },
};
use uuid::Uuid;

use super::device::{Calls, Device, Manner, Session, Wire, bytes};

/// A commit with what comes with it, as a client sends it.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) commit: Bytes,
    pub(crate) group_info: Bytes,
    pub(crate) welcome: Option<Bytes>,
    pub(crate) removed: Vec<DeviceNo>,
}

impl From<&CommitOutput> for Sent {
    fn from(output: &CommitOutput) -> Self {
        assert!(output.welcome_messages().len() <= 1);
        Self {
            commit: bytes(output.commit_message()),
            group_info: bytes(output.external_commit_group_info().unwrap()),
            welcome: output.welcome_messages().first().map(bytes),
            removed: Vec::new(),
        }
    }
}

pub(crate) struct World {
    pub(crate) group_id: GroupId,
    pub(crate) manner: Manner,
    pub(crate) epoch: Epoch,
    pub(crate) members: Vec<Member>,
    pub(crate) state: Bytes,
    pub(crate) group_info: Bytes,
    pub(crate) tree: Bytes,
    pub(crate) pending: Vec<Bytes>,
    pub(crate) packages: Vec<KnownPackage>,
}

pub(crate) const SUITES: [CipherSuite; 3] =
    [CipherSuite::X25519Aes128, CipherSuite::P256Aes128, CipherSuite::X25519ChaCha20];

pub(crate) fn now() -> Timestamp {
    use restante::domain::Clock as _;

    restante::domain::SystemClock.now()
}

pub(crate) fn rules(group_id: GroupId, manner: Manner) -> FoundingRules<'static> {
    FoundingRules {
        group_id,
        external_join: manner.external_join,
        cipher_suites: &SUITES,
        longest_lifetime: Duration::from_hours(24 * 91),
        now: now(),
    }
}

pub(crate) fn new_group_id() -> GroupId {
    GroupId::new(Uuid::new_v4())
}

/// A group that a client has made for itself.
pub(crate) fn create(device: &Device, group_id: GroupId, context: ExtensionList) -> Session {
    let id = group_id.uuid().as_bytes().to_vec();
    device.client.create_group_with_id(id, context, ExtensionList::default(), None).unwrap()
}

impl World {
    pub(crate) fn found(device: &Device, manner: Manner) -> (Self, Session) {
        let group_id = new_group_id();
        let session = create(device, group_id, ExtensionList::default());
        let group_info = bytes(&session.group_info_message_allowing_ext_commit(true).unwrap());
        (Self::founded(device, group_id, manner, &group_info, None), session)
    }

    /// A group that a client of some library has made.
    pub(crate) fn founded(
        by: &impl Calls,
        group_id: GroupId,
        manner: Manner,
        group_info: &Bytes,
        tree: Option<&Bytes>,
    ) -> Self {
        let rules = rules(group_id, manner);
        let founded = match manner.handshake {
            Handshake::Public => found(&rules, &by.sender(), group_info, tree),
            Handshake::Private => found_private(&rules, &by.sender(), group_info),
            Handshake::None => panic!("a roster group has no MLS material"),
        };
        let Founded { cipher_suite, first } = founded.unwrap();
        assert_eq!((cipher_suite, first.epoch), (manner.suite, Epoch(0)));
        Self {
            group_id,
            manner,
            epoch: first.epoch,
            members: vec![founder(by.sender().caller, rules.now)],
            state: first.state.unwrap_or_default(),
            group_info: first.group_info,
            tree: first.tree.unwrap_or_default(),
            pending: Vec::new(),
            packages: Vec::new(),
        }
    }

    /// A package of the device, handed out by the relay.
    pub(crate) fn claim(&mut self, device: &Device) -> MlsMessage {
        let package = device.package();
        self.packages.push(known(&device.caller, &package, self.manner.suite));
        package
    }

    pub(crate) fn at(&self) -> GroupAt<'_> {
        GroupAt {
            group_id: self.group_id,
            epoch: self.epoch,
            cipher_suite: self.manner.suite,
            external_join: self.manner.external_join,
            members: &self.members,
        }
    }

    pub(crate) fn judge(&self, device: &impl Calls, sent: &Sent) -> Result<JudgedCommit, Refusal> {
        let bundle = CommitBundle {
            commit: &sent.commit,
            group_info: &sent.group_info,
            welcome: sent.welcome.as_ref(),
        };
        // The store is asked for what the Welcome names, as the edge does it.
        let named = sent.welcome.as_deref().and_then(|welcome| Welcome::parse(welcome).ok());
        let named = named.map(|welcome| welcome.references()).unwrap_or_default();
        let asked: Vec<_> =
            self.packages.iter().filter(|known| named.contains(&known.reference)).cloned().collect();
        match self.manner.handshake {
            Handshake::Private => judge_private_commit(
                &self.at(),
                &self.group_info,
                &device.sender(),
                &bundle,
                &sent.removed,
                &asked,
            ),
            Handshake::Public | Handshake::None => {
                judge_commit(&self.at(), &self.state, &self.pending, &device.sender(), &bundle, &asked)
            }
        }
    }

    pub(crate) fn refusal(&self, device: &impl Calls, sent: &Sent) -> Refusal {
        match self.judge(device, sent) {
            Ok(_) => panic!("it was accepted"),
            Err(refusal) => refusal,
        }
    }

    /// Makes a commit true, as the store does.
    pub(crate) fn accept(&mut self, device: &impl Calls, sent: &Sent) -> JudgedCommit {
        let judged = self.judge(device, sent).unwrap();
        self.epoch = judged.next.epoch;
        self.state = judged.next.state.clone().unwrap_or_default();
        self.group_info = judged.next.group_info.clone();
        self.tree = judged.next.tree.clone().unwrap_or_default();
        self.pending.clear();
        for member in &mut self.members {
            member.devices.retain(|device| !judged.removed.contains(&device.device_no));
        }
        for joining in &judged.joiners {
            let known = self.packages.iter_mut().find(|known| known.reference == joining.reference).unwrap();
            known.usable = false;
            let owner = known.owner.clone();
            self.enter(&owner, joining.leaf_index);
        }
        if let Some(external) = judged.external {
            self.enter(device.sender().caller, external.leaf_index);
        }
        self.members.retain(|member| !member.devices.is_empty());
        judged
    }

    fn enter(&mut self, caller: &Caller, leaf_index: Option<u32>) {
        let device = MemberDevice {
            device_no: caller.device_no,
            device_id: caller.device_id.clone(),
            leaf_index,
            active: true,
            leaving: false,
        };
        if let Some(member) = self.members.iter_mut().find(|member| member.user_id == caller.user_id) {
            member.devices.push(device);
        } else {
            self.members.push(Member { devices: vec![device], role: Role::Member, ..founder(caller, now()) });
        }
    }

    /// Adds devices by one commit of `by`, which is taken, and lets them join.
    pub(crate) fn add(&mut self, by: &Device, session: &mut Session, devices: &[&Device]) -> Vec<Session> {
        let packages: Vec<_> = devices.iter().map(|device| self.claim(device)).collect();
        let mut builder = session.commit_builder();
        for package in packages {
            builder = builder.add_member(package).unwrap();
        }
        let output = builder.build().unwrap();
        let judged = self.accept(by, &Sent::from(&output));
        session.apply_pending_commit().unwrap();
        let welcome_for = |device: &Device| {
            let joining = judged.joiners.iter().find(|joining| joining.device_no == device.caller.device_no);
            MlsMessage::from_bytes(&joining.unwrap().welcome).unwrap()
        };
        let join = |device: &&Device| {
            let tree = session.export_tree();
            device.client.join_group(Some(tree), &welcome_for(device), None).unwrap().0
        };
        devices.iter().map(join).collect()
    }

    pub(crate) fn propose(
        &self,
        device: &impl Calls,
        message: &impl Wire,
    ) -> Result<JudgedProposal, Refusal> {
        let body = message.wire();
        if self.manner.handshake == Handshake::Private {
            return judge_private_proposal(&self.at(), &self.group_info, &device.sender(), &body);
        }
        let named = restante::groups::mls::added_package(&body);
        let asked: Vec<_> =
            self.packages.iter().filter(|known| Some(known.reference) == named).cloned().collect();
        let judged = judge_proposals(&self.at(), &self.state, &device.sender(), &[body], &asked);
        judged.map(|judged| judged[0]).map_err(|(index, refusal)| {
            assert_eq!(index, 0);
            refusal
        })
    }

    /// Keeps a proposal that was taken.
    pub(crate) fn keep(&mut self, device: &impl Calls, message: &impl Wire) -> JudgedProposal {
        let judged = self.propose(device, message).unwrap();
        self.pending.push(message.wire());
        if judged.leaves {
            let target = judged.target.unwrap();
            self.device(target).leaving = true;
        }
        judged
    }

    pub(crate) fn device(&mut self, device: DeviceNo) -> &mut MemberDevice {
        let mut devices = self.members.iter_mut().flat_map(|member| &mut member.devices);
        devices.find(|found| found.device_no == device).unwrap()
    }

    pub(crate) fn role(&mut self, device: &Device, role: Role) {
        let user_id = device.caller.user_id;
        self.members.iter_mut().find(|member| member.user_id == user_id).unwrap().role = role;
    }
}

/// What a device sends to come in, removing a leaf or none.
pub(crate) fn entrance(world: &World, device: &Device, removes: Option<u32>) -> (Sent, Session) {
    let group_info = MlsMessage::from_bytes(&world.group_info).unwrap();
    let tree = ExportedTree::from_bytes(&world.tree).unwrap();
    let mut builder = device.client.external_commit_builder().unwrap().with_tree_data(tree);
    if let Some(leaf) = removes {
        builder = builder.with_removal(leaf);
    }
    let (session, commit) = builder.build(group_info).unwrap();
    let group_info = bytes(&session.group_info_message_allowing_ext_commit(false).unwrap());
    (Sent { commit: bytes(&commit), group_info, welcome: None, removed: Vec::new() }, session)
}

pub(crate) fn reference(package: &MlsMessage, suite: CipherSuite) -> KeyPackageRef {
    use mls_rs::CryptoProvider as _;

    let suite = mls_rs::CipherSuite::new(suite.number());
    let suite = mls_rs_crypto_rustcrypto::RustCryptoProvider::new().cipher_suite_provider(suite).unwrap();
    let reference = package.key_package_reference(&suite).unwrap().unwrap();
    let bytes: &[u8] = reference.as_ref();
    KeyPackageRef(bytes.try_into().unwrap())
}

pub(crate) fn known(owner: &Caller, package: &MlsMessage, suite: CipherSuite) -> KnownPackage {
    KnownPackage {
        reference: reference(package, suite),
        owner: owner.clone(),
        active: true,
        cipher_suite: suite,
        usable: true,
    }
}
