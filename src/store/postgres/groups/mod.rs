//! Acts on groups.

mod advance;
mod create;
pub(super) mod devices;
mod entries;
mod epochs;
pub(super) mod expiry;
mod founding;
mod invites;
mod joining;
mod log;
mod openings;
mod profile;
mod propose;
mod roster;
mod roster_rows;
mod rows;
pub(super) mod send;
mod views;
pub(super) mod windows;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use self::founding::Handed;
use super::{
    PostgresStore,
    fault::{Repeat, attempt},
};
use crate::{
    domain::{
        Caller, DeviceNo, Epoch, GroupId, GroupSend, InviteId, Member, Membership, Position, Role, Timestamp,
        UserId, Window,
    },
    store::{
        Advance, Advanced, Allowed, GroupAccepted, GroupActs, GroupCreated, GroupReset, HandshakeState,
        Invite, LogPage, NewGroup, NewProposals, Proposed, Report, RosterChange, RosterChanged, Standing,
        StoreError, StoredCommit, ack::EntryAck,
    },
};

impl PostgresStore {
    fn hand(&self, handed: Handed) {
        self.committed.hand_over_all(handed.deliveries, handed.entries);
    }
}

#[async_trait]
impl GroupActs for PostgresStore {
    async fn create_group(&self, group: NewGroup, now: Timestamp) -> Result<GroupCreated, StoreError> {
        let act = || create::create(&self.pool, self.limits, &group, now);
        let (created, handed) = attempt(Repeat::Always, act).await?;
        self.hand(handed);
        Ok(created)
    }

    async fn standing(&self, group: GroupId, caller: &Caller) -> Result<Option<Standing>, StoreError> {
        attempt(Repeat::Always, || views::standing(&self.pool, group, caller)).await
    }

    async fn commit_of(
        &self,
        group: GroupId,
        generation: i64,
        epoch: Epoch,
    ) -> Result<Option<StoredCommit>, StoreError> {
        attempt(Repeat::Always, || epochs::commit_of(&self.pool, group, generation, epoch)).await
    }

    async fn handshake_state(&self, group: GroupId) -> Result<Option<HandshakeState>, StoreError> {
        attempt(Repeat::Always, || views::handshake_state(&self.pool, group)).await
    }

    async fn group_state(&self, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, StoreError> {
        attempt(Repeat::Always, || epochs::state(&self.pool, group, digest)).await
    }

    async fn advance_group(&self, advance: Advance, now: Timestamp) -> Result<Advanced, StoreError> {
        let act = || advance::advance(&self.pool, self.limits, &advance, now);
        let (advanced, handed) = attempt(Repeat::Always, act).await?;
        self.hand(handed);
        Ok(advanced)
    }

    async fn propose(&self, proposals: NewProposals, now: Timestamp) -> Result<Proposed, StoreError> {
        let act = || propose::propose(&self.pool, &proposals, now);
        let (proposed, handed) = attempt(Repeat::Always, act).await?;
        self.hand(handed);
        Ok(proposed)
    }

    fn accept_group_send(&self, send: GroupSend) -> BoxFuture<'static, Result<GroupAccepted, StoreError>> {
        let weight = send.body.len() + 512;
        self.group_sends.submit(send, weight)
    }

    async fn group_log(
        &self,
        group: GroupId,
        after: Position,
        limit: u32,
        bytes: usize,
        now: Timestamp,
    ) -> Result<LogPage, StoreError> {
        attempt(Repeat::Always, || log::page(&self.pool, group, after, (limit, bytes), now)).await
    }

    async fn group_heads(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Position)>, StoreError> {
        attempt(Repeat::Always, || log::heads(&self.watch, groups)).await
    }

    async fn windows(
        &self,
        device: DeviceNo,
        group: Option<GroupId>,
    ) -> Result<Vec<(Window, Position)>, StoreError> {
        attempt(Repeat::Always, || windows::readable(&self.pool, device, group)).await
    }

    async fn windows_in(&self, device: DeviceNo, group: GroupId) -> Result<Vec<Window>, StoreError> {
        attempt(Repeat::Always, || windows::in_group(&self.pool, device, group)).await
    }

    async fn ack_entries(&self, device: DeviceNo, acks: &[(GroupId, Position)]) -> Result<(), StoreError> {
        let ack = EntryAck { device, entries: acks.to_vec() };
        let weight = ack.weight();
        self.group_acks.submit(ack, weight).await
    }

    async fn groups_of(
        &self,
        user: UserId,
        after: Option<GroupId>,
        limit: u32,
    ) -> Result<Vec<Membership>, StoreError> {
        attempt(Repeat::Always, || views::groups_of(&self.pool, user, after, limit)).await
    }

    async fn members(&self, group: GroupId) -> Result<Option<Vec<Member>>, StoreError> {
        attempt(Repeat::Always, || views::members(&self.pool, group)).await
    }

    async fn ratchet_tree(
        &self,
        group: GroupId,
        generation: i64,
        epoch: Epoch,
    ) -> Result<Option<Bytes>, StoreError> {
        attempt(Repeat::Always, || epochs::tree(&self.pool, group, generation, epoch)).await
    }

    async fn describe_group(
        &self,
        group: GroupId,
        by: &Caller,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<Allowed, StoreError> {
        let (name, description) = (name.as_deref(), description.as_deref());
        attempt(Repeat::Always, || profile::describe(&self.pool, group, by, name, description)).await
    }

    async fn set_role(
        &self,
        group: GroupId,
        by: &Caller,
        user: UserId,
        role: Role,
    ) -> Result<Allowed, StoreError> {
        attempt(Repeat::WhenUndone, || profile::set_role(&self.pool, group, by, user, role)).await
    }

    async fn make_invite(
        &self,
        group: GroupId,
        by: &Caller,
        invite: Invite,
        token: [u8; 32],
    ) -> Result<Allowed, StoreError> {
        attempt(Repeat::Always, || invites::make(&self.pool, group, by, invite, token)).await
    }

    async fn revoke_invite(
        &self,
        group: GroupId,
        by: &Caller,
        invite: InviteId,
    ) -> Result<Allowed, StoreError> {
        attempt(Repeat::WhenUndone, || invites::revoke(&self.pool, group, by, invite)).await
    }

    async fn invites(&self, group: GroupId, now: Timestamp) -> Result<Vec<Invite>, StoreError> {
        attempt(Repeat::Always, || invites::list(&self.pool, group, now)).await
    }

    async fn founding_of(
        &self,
        group: GroupId,
        by: DeviceNo,
        digest: [u8; 32],
    ) -> Result<Option<Position>, StoreError> {
        attempt(Repeat::Always, || create::founding_of(&self.pool, group, by, digest)).await
    }

    async fn is_invited(&self, group: GroupId, token: [u8; 32], now: Timestamp) -> Result<bool, StoreError> {
        attempt(Repeat::Always, || invites::holds(&self.pool, group, token, now)).await
    }

    async fn change_roster(&self, change: RosterChange, now: Timestamp) -> Result<RosterChanged, StoreError> {
        let act = || roster::change(&self.pool, self.limits, &change, now);
        let (changed, handed) = attempt(Repeat::WhenUndone, act).await?;
        self.hand(handed);
        Ok(changed)
    }

    async fn report_commit(&self, report: Report, now: Timestamp) -> Result<Allowed, StoreError> {
        attempt(Repeat::Always, || profile::report(&self.pool, &report, now)).await
    }

    async fn reset_group(
        &self,
        group: NewGroup,
        generation: i64,
        now: Timestamp,
    ) -> Result<GroupReset, StoreError> {
        let act = || create::reset(&self.pool, self.limits, &group, generation, now);
        let (reset, handed) = attempt(Repeat::Always, act).await?;
        self.hand(handed);
        Ok(reset)
    }
}

#[cfg(test)]
pub(super) mod statements {
    //! The statements whose plans are tested.
    pub(in super::super) use super::{
        expiry::{ENDED_BODIES, OLD_ENTRIES},
        joining::USE_PACKAGES,
        log::{HEADS, PAGE},
        openings::POST,
        roster_rows::CROWDED,
        send::{KNOWN, LOCK, LOCK_FREE, SENDERS, WRITE},
        views::{GROUPS_OF, STANDING},
        windows::{ACK, READABLE, READABLE_IN},
    };
}
