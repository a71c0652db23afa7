//! The acts that take a judge.

use std::sync::Arc;

use restante::{
    domain::{Caller, Epoch, GroupId, Position, UserId},
    store::{
        Advance, Advanced, Deactivated, ExternalJoiner, GroupAccepted, GroupCreated, GroupReset, NewGroup,
        NewProposal, NewProposals, Proposed, RosterChange, RosterChanged, Store,
    },
};

use super::world::World;
use crate::support::{mls_mothers as mls, mothers};

impl World {
    pub(super) async fn create(&mut self, by: usize, group: usize, mls: bool, others: &[usize]) {
        let Some(by) = self.device(by) else { return };
        let new = if mls {
            let joiners = self.joiners(others, &[by.device_no], 1).await;
            if joiners.is_empty() { mls::group(&by) } else { mls::filled(&by, joiners) }
        } else {
            let mut users: Vec<UserId> = others.iter().map(|&other| self.user(other)).collect();
            users.retain(|user| *user != by.user_id);
            users.sort_unstable();
            users.dedup();
            mls::roster(&by, &users)
        };
        let new = NewGroup { group_id: self.groups[group], ..new };
        let now = self.engines[0].now();
        let create = async |store: Arc<dyn Store>| store.create_group(new.clone(), now).await.unwrap();
        let created = self.done(create, |it| matches!(it, GroupCreated::Created(_))).await;
        self.note_founding(&created);
        self.creates.push(new);
    }

    pub(super) async fn commit(
        &mut self,
        by: usize,
        group: usize,
        add: &[usize],
        remove: &[usize],
        lag: i64,
    ) {
        let (group, Some(by)) = (self.groups[group], self.device(by)) else { return };
        let Some(leaves) = self.leaves(group).await else { return };
        let mut removed: Vec<_> = match leaves.len() {
            0 => Vec::new(),
            number => remove.iter().map(|&index| leaves[index % number]).collect(),
        };
        removed.retain(|device| *device != by.device_no);
        removed.sort_unstable();
        removed.dedup();
        let stay: Vec<_> =
            leaves.iter().copied().chain([by.device_no]).filter(|leaf| !removed.contains(leaf)).collect();
        let next = self.next_leaf(group).await;
        let joiners = self.joiners(add, &stay, next).await;
        let commit = Advance { joiners, removed, ..Self::bare_commit(group, &by) };
        self.judged(commit, lag).await;
    }

    pub(super) async fn join(&mut self, by: usize, group: usize, invited: bool) {
        let (group, Some(by)) = (self.groups[group], self.device(by)) else { return };
        let Some(leaves) = self.leaves(group).await else { return };
        let removed = leaves.into_iter().filter(|leaf| *leaf == by.device_no).collect();
        let token = self.invites.iter().rev().find(|invite| invite.0 == group).map(|invite| invite.2);
        let invite = token.filter(|_| invited);
        let external = Some(ExternalJoiner { leaf_index: Some(self.next_leaf(group).await), invite });
        self.judged(Advance { external, removed, ..Self::bare_commit(group, &by) }, 0).await;
    }

    fn bare_commit(group_id: GroupId, by: &Caller) -> Advance {
        Advance {
            group_id,
            by: by.clone(),
            version: 0,
            generation: 0,
            epoch: Epoch(0),
            commit: mls::commit(),
            epoch_state: mls::epoch_state(),
            joiners: Vec::new(),
            external: None,
            removed: Vec::new(),
        }
    }

    async fn next_leaf(&self, group: GroupId) -> u32 {
        let members = self.members(group).await;
        let leaves = members.iter().flat_map(|member| &member.devices).filter_map(|it| it.leaf_index);
        leaves.max().map_or(0, |leaf| leaf + 1)
    }

    /// Lets a commit be made true by what the group is now, or was.
    async fn judged(&mut self, commit: Advance, lag: i64) {
        let now = self.engines[0].now();
        let advance = async |store: Arc<dyn Store>| {
            let judged = Self::advance(&*store, &commit, lag).await.unwrap();
            store.advance_group(judged, now).await.unwrap()
        };
        let advanced = self.done(advance, |it| matches!(it, Advanced::Advanced(..))).await;
        if let Advanced::Advanced(epoch, _) = advanced {
            let known = self.known.get_mut(&commit.group_id).unwrap();
            known.epoch += 1;
            assert_eq!(epoch, Epoch(known.epoch));
            let by_age = (known.epoch - 2).max(known.oldest_epoch);
            known.oldest_epoch = if commit.removed.is_empty() { by_age } else { known.epoch };
            // A repeat is known by its device and bytes, whatever it is judged by.
            let generation = self.engines[0].store.standing(commit.group_id, &commit.by).await.unwrap();
            let generation = generation.unwrap().group.generation;
            self.commits.push(Advance { epoch: Epoch(epoch.0 - 1), generation, version: -1, ..commit });
        }
    }

    pub(super) async fn propose(&mut self, by: usize, group: usize, target: usize, leaves: bool) {
        let (group, Some(by)) = (self.groups[group], self.device(by)) else { return };
        let Some(in_group) = self.leaves(group).await.filter(|leaves| !leaves.is_empty()) else { return };
        let mut target = in_group[target % in_group.len()];
        let own: Vec<_> =
            self.devices.iter().filter(|it| it.user_id == by.user_id).map(|it| it.device_no).collect();
        if leaves {
            let Some(&first) = in_group.iter().find(|leaf| own.contains(leaf)) else { return };
            target = first;
        }
        let proposals = vec![NewProposal { leaves, ..mls::proposal(Some(target)) }];
        let now = self.engines[0].now();
        let propose = async |store: Arc<dyn Store>| {
            let standing = store.standing(group, &by).await.unwrap().unwrap();
            let (generation, epoch) = (standing.group.generation, standing.group.epoch);
            let (by, proposals) = (by.clone(), proposals.clone());
            store
                .propose(NewProposals { group_id: group, by, generation, epoch, proposals }, now)
                .await
                .unwrap()
        };
        self.done(propose, |it| matches!(it, Proposed::Accepted(..))).await;
    }

    pub(super) async fn say(&mut self, by: usize, group: usize, lag: i64, minutes: Option<u64>) {
        let (group, Some(by)) = (self.groups[group], self.device(by)) else { return };
        let now = self.engines[0].now();
        let standing = self.engines[0].store.standing(group, &by).await.unwrap();
        let epoch = standing.and_then(|it| it.group.cipher_suite.map(|_| Epoch(it.group.epoch.0 - lag)));
        let mut send = mls::send(&by, group, epoch);
        send.expires_at = minutes.map(|minutes| now.plus(std::time::Duration::from_mins(minutes)));
        let say = async |store: Arc<dyn Store>| store.accept_group_send(send.clone()).await.unwrap();
        let accepted = self.done(say, |it| matches!(it, GroupAccepted::Stored(_))).await;
        if matches!(accepted, GroupAccepted::Stored(_)) {
            self.sends.push(send);
        }
    }

    pub(super) async fn change(&mut self, by: usize, group: usize, add: &[usize], remove: &[usize]) {
        let (group_id, Some(by)) = (self.groups[group], self.device(by)) else { return };
        let users = |which: &[usize]| {
            let mut users: Vec<UserId> = which.iter().map(|&index| self.user(index)).collect();
            users.sort_unstable();
            users.dedup();
            users
        };
        let (add, mut remove) = (users(add), users(remove));
        remove.retain(|user| !add.contains(user));
        let change = RosterChange { group_id, by, add, remove };
        let now = self.engines[0].now();
        let before = self.engines[0].store.group_heads(&[group_id]).await.unwrap();
        let act = async |store: Arc<dyn Store>| store.change_roster(change.clone(), now).await.unwrap();
        let changed = self.done(act, |it| matches!(it, RosterChanged::Changed(..))).await;
        let after = self.engines[0].store.group_heads(&[group_id]).await.unwrap();
        if let RosterChanged::Changed(epoch, position) = changed {
            let known = self.known.get_mut(&group_id).unwrap();
            if before != after {
                known.epoch += 1;
                assert_eq!(position, after[0].1);
            }
            assert_eq!(epoch, Epoch(known.epoch));
        }
    }

    pub(super) async fn report(&mut self, by: usize, group: usize) {
        let (group, Some(by)) = (self.groups[group], self.device(by)) else { return };
        let Some(state) = self.engines[0].store.handshake_state(group).await.unwrap() else { return };
        let epoch = Epoch((state.epoch.0 - 1).max(0));
        let commit = self.engines[0].store.commit_of(group, state.generation, epoch).await.unwrap();
        let digest = commit.map_or_else(mothers::bytes, |commit| commit.digest);
        let (report, now) = (mls::report(&by, group, epoch, digest), self.engines[0].now());
        self.both(async |store| store.report_commit(report.clone(), now).await.unwrap()).await;
    }

    pub(super) async fn reset(&mut self, by: usize, group: usize, others: &[usize]) {
        let (group_id, Some(by)) = (self.groups[group], self.device(by)) else { return };
        let Some(state) = self.engines[0].store.handshake_state(group_id).await.unwrap() else { return };
        let joiners = self.joiners(others, &[by.device_no], 1).await;
        let new = if joiners.is_empty() { mls::group(&by) } else { mls::filled(&by, joiners) };
        let new = NewGroup { group_id, ..new };
        let (generation, now) = (state.generation, self.engines[0].now());
        let act =
            async |store: Arc<dyn Store>| store.reset_group(new.clone(), generation, now).await.unwrap();
        let reset = self.done(act, |it| matches!(it, GroupReset::Reset(..))).await;
        if let GroupReset::Reset(group, _) = reset {
            let known = self.known.get_mut(&group_id).unwrap();
            (known.epoch, known.oldest_epoch) = (group.epoch.0, 0);
            assert_eq!(group.generation, generation + 1);
        }
    }

    pub(super) async fn link(&mut self, user: usize) {
        let user = self.user(user);
        let own = self.devices.iter().filter(|it| it.user_id == user && !self.ended.contains(&it.device_no));
        let own: Vec<_> = own.cloned().collect();
        let Some(by) = own.first().filter(|_| own.len() < 4) else { return };
        let name = format!("device-{}", self.devices.len());
        let now = self.engines[0].now();
        let linked = mothers::allowed_by(by, mls::registration(user, &name), now);
        let mut registration = linked.registration;
        registration.session = mothers::session(now);
        self.registered(async |store| {
            assert!(store.offer_link(linked.offer.clone(), now).await.unwrap());
            store.register_device(registration.clone(), now).await.unwrap()
        })
        .await;
    }

    pub(super) async fn end(&mut self, device: usize) {
        let Some(device) = self.device(device) else { return };
        let now = self.engines[0].now();
        let end =
            async |store: Arc<dyn Store>| store.deactivate(&device, &device.device_id, now).await.unwrap();
        assert_eq!(self.both(end).await, Deactivated::Gone(device.device_no));
        self.ended.insert(device.device_no);
    }

    pub(super) async fn restore(&mut self) {
        let now = self.engines[0].now();
        let before = self.engines[0].store.group_heads(&self.groups).await.unwrap();
        self.both(async |store| store.after_restore(now).await.unwrap()).await;
        let after = self.engines[0].store.group_heads(&self.groups).await.unwrap();
        for (group, Position(head)) in before {
            let (_, Position(jumped)) = after.iter().find(|(other, _)| *other == group).unwrap();
            assert!(*jumped >= head + 1_000_000);
            self.known.get_mut(&group).unwrap().jumps.push((head, *jumped));
        }
    }
}
