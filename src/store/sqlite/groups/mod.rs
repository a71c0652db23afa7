//! Groups: rosters, logs, windows and the public side of MLS, act by act.

mod accept;
mod admit;
mod advance;
mod epochs;
mod expire;
mod founding;
mod invites;
mod log;
mod members;
mod propose;
mod roster;
mod rows;
mod views;
pub(super) mod windows;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{FutureExt as _, future::BoxFuture};

pub(super) use self::{
    accept::GroupAcceptance,
    expire::{bodies as expire_bodies, ended, entries as expire_entries, roll_back},
    roster::{join_all as join_rosters, leave_all},
};
use super::SqliteStore;
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

#[async_trait]
impl GroupActs for SqliteStore {
    async fn create_group(&self, group: NewGroup, now: Timestamp) -> Result<GroupCreated, StoreError> {
        let context = self.context(now);
        self.write_and_emit(move |tx| founding::create(tx, group, context).boxed()).await
    }

    async fn standing(&self, group: GroupId, caller: &Caller) -> Result<Option<Standing>, StoreError> {
        let caller = caller.clone();
        self.look(move |conn| views::standing(conn, group, caller).boxed()).await
    }

    async fn commit_of(
        &self,
        group: GroupId,
        generation: i64,
        epoch: Epoch,
    ) -> Result<Option<StoredCommit>, StoreError> {
        let of = epochs::Of { group, generation, epoch };
        self.read(|conn| epochs::commit(conn, of).boxed()).await
    }

    async fn handshake_state(&self, group: GroupId) -> Result<Option<HandshakeState>, StoreError> {
        self.look(|conn| views::handshake(conn, group).boxed()).await
    }

    async fn group_state(&self, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, StoreError> {
        self.read(|conn| epochs::state(conn, group, digest).boxed()).await
    }

    async fn advance_group(&self, advance: Advance, now: Timestamp) -> Result<Advanced, StoreError> {
        let context = self.context(now);
        self.write_and_emit(move |tx| advance::advance(tx, advance, context).boxed()).await
    }

    async fn propose(&self, proposals: NewProposals, now: Timestamp) -> Result<Proposed, StoreError> {
        let context = self.context(now);
        self.write_and_emit(move |tx| propose::propose(tx, proposals, context).boxed()).await
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
        self.look(|conn| log::page(conn, group, after, limit, bytes, now).boxed()).await
    }

    async fn group_heads(&self, groups: &[GroupId]) -> Result<Vec<(GroupId, Position)>, StoreError> {
        let groups = super::rows::uuids(groups.iter().map(|group| group.uuid()));
        self.read(|conn| log::heads(conn, groups).boxed()).await
    }

    async fn windows(
        &self,
        device: DeviceNo,
        group: Option<GroupId>,
    ) -> Result<Vec<(Window, Position)>, StoreError> {
        self.read(|conn| windows::unread(conn, device, group).boxed()).await
    }

    async fn windows_in(&self, device: DeviceNo, group: GroupId) -> Result<Vec<Window>, StoreError> {
        self.read(|conn| windows::held(conn, device, group).boxed()).await
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
        self.read(|conn| views::of_user(conn, user, after, limit).boxed()).await
    }

    async fn members(&self, group: GroupId) -> Result<Option<Vec<Member>>, StoreError> {
        self.look(|conn| views::members(conn, group).boxed()).await
    }

    async fn ratchet_tree(
        &self,
        group: GroupId,
        generation: i64,
        epoch: Epoch,
    ) -> Result<Option<Bytes>, StoreError> {
        let of = epochs::Of { group, generation, epoch };
        self.read(|conn| epochs::tree(conn, of).boxed()).await
    }

    async fn describe_group(
        &self,
        group: GroupId,
        by: &Caller,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<Allowed, StoreError> {
        let by = by.clone();
        self.write(move |tx| roster::describe(tx, group, by, name, description).boxed()).await
    }

    async fn set_role(
        &self,
        group: GroupId,
        by: &Caller,
        user: UserId,
        role: Role,
    ) -> Result<Allowed, StoreError> {
        let by = by.clone();
        self.write(move |tx| roster::set_role(tx, group, by, user, role).boxed()).await
    }

    async fn make_invite(
        &self,
        group: GroupId,
        by: &Caller,
        invite: Invite,
        token: [u8; 32],
    ) -> Result<Allowed, StoreError> {
        let by = by.clone();
        self.write(move |tx| invites::make(tx, group, by, invite, token).boxed()).await
    }

    async fn revoke_invite(
        &self,
        group: GroupId,
        by: &Caller,
        invite: InviteId,
    ) -> Result<Allowed, StoreError> {
        let by = by.clone();
        self.write(move |tx| invites::revoke(tx, group, by, invite).boxed()).await
    }

    async fn invites(&self, group: GroupId, now: Timestamp) -> Result<Vec<Invite>, StoreError> {
        self.read(|conn| invites::invites(conn, group, now).boxed()).await
    }

    async fn founding_of(
        &self,
        group: GroupId,
        by: DeviceNo,
        digest: [u8; 32],
    ) -> Result<Option<Position>, StoreError> {
        self.read(|conn| founding::founding_of(conn, group, by, digest).boxed()).await
    }

    async fn is_invited(&self, group: GroupId, token: [u8; 32], now: Timestamp) -> Result<bool, StoreError> {
        self.read(|conn| invites::holds(conn, group, token, now).boxed()).await
    }

    async fn change_roster(&self, change: RosterChange, now: Timestamp) -> Result<RosterChanged, StoreError> {
        let context = self.context(now);
        self.write_and_emit(move |tx| roster::change(tx, change, context).boxed()).await
    }

    async fn report_commit(&self, report: Report, now: Timestamp) -> Result<Allowed, StoreError> {
        self.write(move |tx| invites::report(tx, report, now).boxed()).await
    }

    async fn reset_group(
        &self,
        group: NewGroup,
        generation: i64,
        now: Timestamp,
    ) -> Result<GroupReset, StoreError> {
        let context = self.context(now);
        self.write_and_emit(move |tx| founding::reset(tx, group, generation, context).boxed()).await
    }
}
