//! Acts on groups as tests put them together, and what groups look like afterwards.

use std::sync::Arc;

use restante::{
    domain::{
        Caller, DeviceNo, Epoch, Group, GroupId, GroupReceipt, GroupSend, Item, KeyPackage, LogEntry, Member,
        MlsSignatureKey, Position, SignatureScheme, UserId, Window,
    },
    store::{
        Advance, Advanced, GroupAccepted, GroupCreated, Joiner, MlsKeySet, NewGroup, NewProposal,
        NewProposals, OneTimeKeys, PackageUpload, PackagesPublished, Proposed, RosterChange, RosterChanged,
        Standing,
    },
};

use super::{
    engine::Engine,
    mls_mothers::{self as mls, SUITE},
    mothers::{self, LinkedRegistration},
};

/// The item that opens a window: what kind it is, its group, and the Welcome's epoch and bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Welcome(GroupId, Epoch, bytes::Bytes),
    Joined(GroupId),
}

impl Engine {
    /// The only device of a new user, with an MLS key and packages.
    pub(crate) async fn mls_newcomer(&self) -> Caller {
        self.register(mls::registration(mothers::user(), "phone")).await
    }

    /// A further device with an MLS key and packages, whose older siblings have acked the notice of it.
    pub(crate) async fn mls_link(&self, by: &Caller, device: &str) -> Caller {
        let registration = mls::registration(by.user_id, device);
        let LinkedRegistration { offer, registration } = mothers::allowed_by(by, registration, self.now());
        assert!(self.store.offer_link(offer, self.now()).await.unwrap());
        let newcomer = self.register(registration).await;
        for older in self.store.devices(by.user_id).await.unwrap() {
            let notices = self.notices(older.device_no).await;
            let positions: Vec<i64> = notices.iter().map(|(position, _)| *position).collect();
            self.ack(older.device_no, &positions).await;
        }
        newcomer
    }

    /// A device's key of a scheme, if it has one.
    pub(crate) async fn mls_key(&self, of: &Caller, scheme: SignatureScheme) -> Option<MlsSignatureKey> {
        let devices = self.store.devices(of.user_id).await.unwrap();
        let device = devices.into_iter().find(|device| device.device_no == of.device_no)?;
        device.mls_signature_keys.into_iter().find(|key| key.scheme == scheme)
    }

    pub(crate) async fn set_key(&self, of: &Caller, key: &MlsSignatureKey) -> MlsKeySet {
        self.store.set_mls_key(of.device_no, key.clone(), self.now()).await.unwrap()
    }

    pub(crate) async fn publish(&self, of: &Caller, upload: PackageUpload) -> PackagesPublished {
        self.store.publish_packages(of.device_no, upload, self.now()).await.unwrap()
    }

    /// The packages that are handed out for a user: whose, which, whether the last-resort one, and how many are left.
    pub(crate) async fn claim(
        &self,
        user: UserId,
        onetime: OneTimeKeys,
    ) -> Vec<(DeviceNo, bytes::Bytes, bool, u32)> {
        let claimed = self.store.claim_packages(user, SUITE, None, onetime, self.now()).await.unwrap();
        let told = claimed.into_iter();
        told.map(|it| (it.owner.device_no, it.package, it.is_last_resort, it.left)).collect()
    }

    /// A package of a device that was handed out and entered no group.
    pub(crate) async fn issued(&self, of: &Caller) -> KeyPackage {
        let key = if let Some(key) = self.mls_key(of, SignatureScheme::Ed25519).await {
            key
        } else {
            let key = mls::signature_key(SignatureScheme::Ed25519);
            assert_eq!(self.set_key(of, &key).await, MlsKeySet::Set(0));
            key
        };
        let package =
            KeyPackage { not_after: self.now().plus(90 * mothers::DAY), ..mls::package(&key, SUITE) };
        let published = self.publish(of, mls::one_time(std::slice::from_ref(&package))).await;
        assert!(matches!(published, PackagesPublished::Published { accepted: 1, .. }), "{published:?}");
        loop {
            let claimed = self.claim(of.user_id, OneTimeKeys::Given).await;
            let (_, body, is_last_resort, _) =
                claimed.into_iter().find(|claimed| claimed.0 == of.device_no).unwrap();
            assert!(!is_last_resort, "the package was published just now");
            if body == package.body {
                return package;
            }
        }
    }

    /// A device with a package that may enter a group, and a Welcome.
    pub(crate) async fn joiner(&self, device: &Caller, leaf_index: u32) -> Joiner {
        let reference = self.issued(device).await.reference;
        Joiner { device_no: device.device_no, reference, leaf_index: Some(leaf_index), welcome: mls::body() }
    }

    /// Joiners with the leaves from `first` on.
    pub(crate) async fn joiners(&self, first: u32, devices: &[&Caller]) -> Vec<Joiner> {
        let mut joiners = Vec::new();
        for (leaf, device) in (first..).zip(devices) {
            joiners.push(self.joiner(device, leaf).await);
        }
        joiners
    }

    pub(crate) async fn try_create(&self, group: NewGroup) -> GroupCreated {
        self.store.create_group(group, self.now()).await.unwrap()
    }

    /// A group that must be made.
    pub(crate) async fn created(&self, group: NewGroup) -> Group {
        match self.try_create(group).await {
            GroupCreated::Created(group) => group,
            refused => panic!("not made: {refused:?}"),
        }
    }

    /// A filled MLS group: the founder has leaf 0, the others the leaves from 1 on.
    pub(crate) async fn filled(&self, founder: &Caller, others: &[&Caller]) -> GroupId {
        let joiners = self.joiners(1, others).await;
        self.created(mls::filled(founder, joiners)).await.group_id
    }

    /// A roster group of these users.
    pub(crate) async fn roster(&self, founder: &Caller, others: &[&Caller]) -> GroupId {
        let users: Vec<UserId> = others.iter().map(|other| other.user_id).collect();
        self.created(mls::roster(founder, &users)).await.group_id
    }

    /// How a device stands in a group that is there.
    pub(crate) async fn standing(&self, group: GroupId, of: &Caller) -> Standing {
        self.store.standing(group, of).await.unwrap().unwrap()
    }

    pub(crate) async fn group(&self, group: GroupId, seen_by: &Caller) -> Group {
        self.standing(group, seen_by).await.group
    }

    pub(crate) async fn may_write(&self, group: GroupId, device: &Caller) -> bool {
        self.standing(group, device).await.may_write()
    }

    /// A commit that changes nobody, judged by what the group is now.
    pub(crate) async fn commit(&self, group: GroupId, by: &Caller) -> Advance {
        let standing = self.standing(group, by).await;
        Advance {
            group_id: group,
            by: by.clone(),
            version: standing.version,
            generation: standing.group.generation,
            epoch: standing.group.epoch,
            commit: mls::commit(),
            epoch_state: mls::epoch_state(),
            joiners: Vec::new(),
            external: None,
            removed: Vec::new(),
        }
    }

    pub(crate) async fn try_advance(&self, advance: Advance) -> Advanced {
        self.store.advance_group(advance, self.now()).await.unwrap()
    }

    /// A commit that must be accepted: the epoch that it opens, and its place.
    pub(crate) async fn advanced(&self, advance: Advance) -> (Epoch, Position) {
        match self.try_advance(advance).await {
            Advanced::Advanced(epoch, position) => (epoch, position),
            refused => panic!("not accepted: {refused:?}"),
        }
    }

    /// A commit that adds devices.
    pub(crate) async fn add(&self, group: GroupId, by: &Caller, added: &[&Caller]) -> (Epoch, Position) {
        let members = self.members(group).await;
        let leaves = members.iter().flat_map(|member| &member.devices).filter_map(|it| it.leaf_index);
        let joiners = self.joiners(leaves.max().unwrap_or(0) + 1, added).await;
        self.advanced(Advance { joiners, ..self.commit(group, by).await }).await
    }

    /// A commit that removes devices.
    pub(crate) async fn remove(&self, group: GroupId, by: &Caller, gone: &[&Caller]) -> (Epoch, Position) {
        let removed = gone.iter().map(|device| device.device_no).collect();
        self.advanced(Advance { removed, ..self.commit(group, by).await }).await
    }

    pub(crate) async fn try_propose(&self, group: GroupId, by: &Caller, all: &[NewProposal]) -> Proposed {
        let group_now = self.group(group, by).await;
        let proposals = NewProposals {
            group_id: group,
            by: by.clone(),
            generation: group_now.generation,
            epoch: group_now.epoch,
            proposals: all.to_vec(),
        };
        self.store.propose(proposals, self.now()).await.unwrap()
    }

    /// Proposals that must be kept: where the last one stands.
    pub(crate) async fn proposed(&self, group: GroupId, by: &Caller, all: &[NewProposal]) -> Position {
        match self.try_propose(group, by, all).await {
            Proposed::Accepted(_, position) => position,
            refused => panic!("not kept: {refused:?}"),
        }
    }

    pub(crate) async fn group_accept(&self, send: GroupSend) -> GroupAccepted {
        self.store.accept_group_send(send).await.unwrap()
    }

    /// The receipt of a send that must be stored.
    pub(crate) async fn group_stored(&self, send: GroupSend) -> GroupReceipt {
        match self.group_accept(send).await {
            GroupAccepted::Stored(receipt) => receipt,
            refused => panic!("not stored: {refused:?}"),
        }
    }

    /// A message of the epoch that the group is in.
    pub(crate) async fn say(&self, group: GroupId, from: &Caller) -> GroupReceipt {
        let now = self.group(group, from).await;
        let epoch = now.cipher_suite.map(|_| now.epoch);
        self.group_stored(mls::send(from, group, epoch)).await
    }

    pub(crate) async fn try_change(
        &self,
        group: GroupId,
        by: &Caller,
        add: &[&Caller],
        remove: &[&Caller],
    ) -> RosterChanged {
        let users = |callers: &[&Caller]| callers.iter().map(|caller| caller.user_id).collect();
        let change = RosterChange { group_id: group, by: by.clone(), add: users(add), remove: users(remove) };
        self.store.change_roster(change, self.now()).await.unwrap()
    }

    /// A change of a roster that must be done.
    pub(crate) async fn changed(
        &self,
        group: GroupId,
        by: &Caller,
        add: &[&Caller],
        remove: &[&Caller],
    ) -> (Epoch, Position) {
        match self.try_change(group, by, add, remove).await {
            RosterChanged::Changed(epoch, position) => (epoch, position),
            refused => panic!("not changed: {refused:?}"),
        }
    }

    /// Everything that is left in a log.
    pub(crate) async fn log(&self, group: GroupId) -> Vec<LogEntry> {
        let page =
            self.store.group_log(group, Position::START, 100_000, usize::MAX, self.now()).await.unwrap();
        assert!(!page.more);
        page.entries
    }

    pub(crate) async fn members(&self, group: GroupId) -> Vec<Member> {
        self.store.members(group).await.unwrap().unwrap()
    }

    pub(crate) async fn windows_in(&self, device: &Caller, group: GroupId) -> Vec<Window> {
        self.store.windows_in(device.device_no, group).await.unwrap()
    }

    /// The only window of a device in a group.
    pub(crate) async fn window(&self, device: &Caller, group: GroupId) -> Window {
        let windows = self.windows_in(device, group).await;
        assert_eq!(windows.len(), 1, "{windows:?}");
        windows[0]
    }

    /// The item that must be given to a device before the entries of a window.
    pub(crate) async fn gate(&self, device: &Caller, window: &Window) -> Gate {
        let items = self.store.mailbox_items(device.device_no, &[window.gate], self.now()).await.unwrap();
        assert_eq!(items.len(), 1, "nothing lies at the gate");
        match items.into_iter().next().unwrap().1 {
            Item::Welcome { group_id, epoch, welcome, .. } => Gate::Welcome(group_id, epoch, welcome),
            Item::Joined { group_id, .. } => Gate::Joined(group_id),
            other @ (Item::Message(_) | Item::Deleted { .. } | Item::DevicesChanged { .. }) => {
                panic!("another item lies at the gate: {other:?}")
            }
        }
    }

    /// Moves a device's cursor in a group.
    pub(crate) async fn read_to(&self, device: &Caller, group: GroupId, position: i64) {
        self.store.ack_entries(device.device_no, &[(group, Position(position))]).await.unwrap();
    }

    /// A second way to the same store: that of another node, or the one there is where only one relay may be.
    pub(crate) async fn twin(&self) -> Arc<dyn restante::store::Store> {
        match &self.url {
            Some(url) => super::postgres::second(url, self.clock.clone()).await,
            None => Arc::clone(&self.store),
        }
    }
}
