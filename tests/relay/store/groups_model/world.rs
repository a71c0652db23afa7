//! Both engines, and acts on them that have been judged as a relay would.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    sync::Arc,
    time::Duration,
};

use restante::{
    domain::{
        Caller, DeviceNo, Epoch, GroupId, GroupSend, InviteId, KeyPackageRef, Member, Position, Role,
        SignatureScheme, UserId,
    },
    store::{Advance, Advanced, GroupCreated, Joiner, NewGroup, OneTimeKeys, Registered, Store},
};

use super::Act;
use crate::support::{
    engine::Engine,
    mls_mothers::{self as mls, SUITE},
    mothers,
};

/// What the model knows of a group that is there.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Commits, or changes of the roster, since the generation began.
    pub(super) epoch: i64,
    /// The lowest epoch from which messages are taken.
    pub(super) oldest_epoch: i64,
    /// The heads before restores, and those after.
    pub(super) jumps: Vec<(i64, i64)>,
}

/// Both engines, and what came before, from which later acts choose.
pub(super) struct World {
    pub(super) engines: [Engine; 2],
    pub(super) users: Vec<UserId>,
    pub(super) devices: Vec<Caller>,
    pub(super) ended: BTreeSet<DeviceNo>,
    pub(super) groups: [GroupId; 3],
    pub(super) known: HashMap<GroupId, Known>,
    pub(super) packages: Vec<KeyPackageRef>,
    pub(super) invites: Vec<(GroupId, InviteId, [u8; 32])>,
    pub(super) creates: Vec<NewGroup>,
    pub(super) commits: Vec<Advance>,
    pub(super) sends: Vec<GroupSend>,
}

impl World {
    pub(super) async fn of(engines: [Engine; 2]) -> Self {
        let mut world = Self {
            engines,
            users: (0..4).map(|_| mothers::user()).collect(),
            devices: Vec::new(),
            ended: BTreeSet::new(),
            groups: [mls::group_id(), mls::group_id(), mls::group_id()],
            known: HashMap::new(),
            packages: Vec::new(),
            invites: Vec::new(),
            creates: Vec::new(),
            commits: Vec::new(),
            sends: Vec::new(),
        };
        for user in world.users.clone() {
            let registration = mls::registration(user, "phone");
            let now = world.engines[0].now();
            let registered =
                async |store: Arc<dyn Store>| store.register_device(registration.clone(), now).await.unwrap();
            world.registered(registered).await;
        }
        world
    }

    /// Does the same on both engines, which must answer alike.
    pub(super) async fn both<T: PartialEq + Debug>(&self, act: impl AsyncFn(Arc<dyn Store>) -> T) -> T {
        let [embedded, production] = &self.engines;
        let answer = act(Arc::clone(&embedded.store)).await;
        assert_eq!(answer, act(Arc::clone(&production.store)).await, "sqlite first, then postgres");
        answer
    }

    /// As `both`, for an act whose refusals change nothing.
    pub(super) async fn done<T: PartialEq + Debug>(
        &self,
        act: impl AsyncFn(Arc<dyn Store>) -> T,
        is_done: impl Fn(&T) -> bool,
    ) -> T {
        let [embedded, production] = &self.engines;
        let before = [embedded.tables().await, production.tables().await];
        let answer = self.both(act).await;
        if !is_done(&answer) {
            embedded.assert_unchanged(&before[0], &format!("sqlite: {answer:?}")).await;
            production.assert_unchanged(&before[1], &format!("postgres: {answer:?}")).await;
        }
        answer
    }

    pub(super) async fn registered(&mut self, act: impl AsyncFn(Arc<dyn Store>) -> Registered) {
        if let Registered::Registered(principal) = self.both(act).await {
            self.devices.push(principal.caller);
        }
    }

    /// A device that is active.
    pub(super) fn device(&self, index: usize) -> Option<Caller> {
        let active: Vec<_> = self.devices.iter().filter(|it| !self.ended.contains(&it.device_no)).collect();
        (!active.is_empty()).then(|| active[index % active.len()].clone())
    }

    pub(super) fn user(&self, index: usize) -> UserId {
        self.users[index % self.users.len()]
    }

    pub(super) async fn members(&self, group: GroupId) -> Vec<Member> {
        self.engines[0].store.members(group).await.unwrap().unwrap_or_default()
    }

    /// Whether it is an MLS group that is there, and the devices that have leaves.
    pub(super) async fn leaves(&self, group: GroupId) -> Option<Vec<DeviceNo>> {
        self.engines[0].store.handshake_state(group).await.unwrap()?;
        let members = self.members(group).await;
        Some(members.iter().flat_map(|member| &member.devices).map(|device| device.device_no).collect())
    }

    /// Joiners with fresh packages: active devices that are not among `besides`, each once.
    pub(super) async fn joiners(&mut self, which: &[usize], besides: &[DeviceNo], first: u32) -> Vec<Joiner> {
        let mut devices: Vec<Caller> = Vec::new();
        for device in which.iter().filter_map(|&index| self.device(index)) {
            if !besides.contains(&device.device_no) && !devices.contains(&device) {
                devices.push(device);
            }
        }
        let mut joiners = Vec::new();
        for (leaf, device) in (first..).zip(devices) {
            let key = self.engines[0].mls_key(&device, SignatureScheme::Ed25519).await.unwrap();
            let mut package = mls::package(&key, SUITE);
            let now = self.engines[0].now();
            package.not_after = now.plus(90 * mothers::DAY);
            self.both(async |store| {
                let upload = mls::one_time(std::slice::from_ref(&package));
                store.publish_packages(device.device_no, upload, now).await.unwrap()
            })
            .await;
            while !self.claimed(&device).await.contains(&package.body) {}
            self.packages.push(package.reference);
            let reference = package.reference;
            let welcome = mls::body();
            joiners.push(Joiner { device_no: device.device_no, reference, leaf_index: Some(leaf), welcome });
        }
        joiners
    }

    async fn claimed(&self, of: &Caller) -> Vec<bytes::Bytes> {
        let now = self.engines[0].now();
        self.both(async |store| {
            let given = OneTimeKeys::Given;
            let claimed = store.claim_packages(of.user_id, SUITE, None, given, now).await.unwrap();
            assert!(!claimed.is_empty());
            claimed.into_iter().map(|claimed| claimed.package).collect::<Vec<_>>()
        })
        .await
    }

    /// What an engine has to be told to judge by: the group's version, epoch and generation.
    pub(super) async fn advance(store: &dyn Store, template: &Advance, lag: i64) -> Option<Advance> {
        let standing = store.standing(template.group_id, &template.by).await.unwrap()?;
        Some(Advance {
            version: standing.version,
            generation: standing.group.generation,
            epoch: Epoch(standing.group.epoch.0 - lag),
            ..template.clone()
        })
    }

    pub(super) async fn perform(&mut self, act: Act) {
        let now = self.engines[0].now();
        match act {
            Act::Create { by, group, mls, others } => self.create(by, group, mls, &others).await,
            Act::CreateAgain { which } if !self.creates.is_empty() => {
                let new = self.creates[which % self.creates.len()].clone();
                let create =
                    async |store: Arc<dyn Store>| store.create_group(new.clone(), now).await.unwrap();
                let created = self.done(create, |it| matches!(it, GroupCreated::Created(_))).await;
                self.note_founding(&created);
            }
            Act::Commit { by, group, add, remove, lag } => self.commit(by, group, &add, &remove, lag).await,
            Act::CommitAgain { which } if !self.commits.is_empty() => {
                let commit = self.commits[which % self.commits.len()].clone();
                let again =
                    async |store: Arc<dyn Store>| store.advance_group(commit.clone(), now).await.unwrap();
                let advanced = self.done(again, |_| false).await;
                assert!(!matches!(advanced, Advanced::Advanced(..)), "a commit was accepted twice");
            }
            Act::JoinByOneself { by, group, invited } => self.join(by, group, invited).await,
            Act::Propose { by, group, target, leaves } => self.propose(by, group, target, leaves).await,
            Act::Say { by, group, lag, minutes } => self.say(by, group, lag, minutes).await,
            Act::SayAgain { which, altered } if !self.sends.is_empty() => {
                let mut send = self.sends[which % self.sends.len()].clone();
                if altered {
                    send.digest = mothers::bytes();
                }
                self.both(async |store| store.accept_group_send(send.clone()).await.unwrap()).await;
            }
            Act::Change { by, group, add, remove } => self.change(by, group, &add, &remove).await,
            Act::SetRole { by, group, user, role } => {
                let Some(by) = self.device(by) else { return };
                let (group, user) = (self.groups[group], self.user(user));
                let role = [Role::Member, Role::Admin, Role::Owner][role % 3];
                self.both(async |store| store.set_role(group, &by, user, role).await.unwrap()).await;
            }
            Act::Invite { by, group } => {
                let Some(by) = self.device(by) else { return };
                let (invite, token) = (mls::invite(now, Duration::from_hours(2)), mothers::bytes());
                let group = self.groups[group];
                let make =
                    async |store: Arc<dyn Store>| store.make_invite(group, &by, invite, token).await.unwrap();
                self.both(make).await;
                self.invites.push((group, invite.invite_id, token));
            }
            Act::RevokeInvite { by, which } if !self.invites.is_empty() => {
                let Some(by) = self.device(by) else { return };
                let (group, invite, _) = self.invites[which % self.invites.len()];
                self.both(async |store| store.revoke_invite(group, &by, invite).await.unwrap()).await;
            }
            Act::Report { by, group } => self.report(by, group).await,
            Act::Reset { by, group, others } => self.reset(by, group, &others).await,
            Act::Read { by, group, position } => {
                let Some(by) = self.device(by) else { return };
                let acks = [(self.groups[group], Position(position))];
                self.both(async |store| store.ack_entries(by.device_no, &acks).await.unwrap()).await;
            }
            Act::Link { user } => self.link(user).await,
            Act::End { device } => self.end(device).await,
            Act::ReplaceKey { device } => {
                let Some(device) = self.device(device) else { return };
                let key = mls::signature_key(SignatureScheme::Ed25519);
                let set = async |store: Arc<dyn Store>| {
                    store.set_mls_key(device.device_no, key.clone(), now).await.unwrap()
                };
                self.both(set).await;
            }
            Act::Restore => self.restore().await,
            Act::Expire => {
                for engine in &self.engines {
                    engine.expire_all().await;
                }
                let store = &self.engines[0].store;
                for group in self.groups {
                    if store.standing(group, &self.devices[0]).await.unwrap().is_none() {
                        self.known.remove(&group);
                    }
                }
            }
            Act::Advance { minutes } => {
                for engine in &self.engines {
                    engine.advance(Duration::from_mins(minutes));
                }
            }
            Act::CreateAgain { .. }
            | Act::CommitAgain { .. }
            | Act::SayAgain { .. }
            | Act::RevokeInvite { .. } => {}
        }
    }

    pub(super) fn note_founding(&mut self, created: &GroupCreated) {
        if let GroupCreated::Created(group) = created {
            let known = Known { epoch: group.epoch.0, ..Known::default() };
            assert!(self.known.insert(group.group_id, known).is_none(), "a group was made twice");
        }
    }
}
