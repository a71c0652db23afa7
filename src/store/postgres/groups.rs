//! Acts on groups and key packages.

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::PostgresStore;
use crate::{
    domain::{
        Caller, CipherSuite, DeviceNo, Epoch, GroupId, GroupSend, InviteId, KeyPackageRef, Member,
        Membership, MlsSignatureKey, Position, Role, Timestamp, UserId, Window,
    },
    store::{
        Advance, Advanced, Allowed, ClaimedPackage, GroupAccepted, GroupActs, GroupCreated, GroupReset,
        HandshakeState, Invite, IssuedPackage, LogPage, MlsKeySet, NewGroup, NewProposals, OneTimeKeys,
        PackageActs, PackageUpload, PackagesPublished, Proposed, Report, RosterChange, RosterChanged,
        Standing, StoreError, StoredCommit,
    },
};

fn absent() -> StoreError {
    StoreError::Unavailable("absent".into())
}

#[async_trait]
impl PackageActs for PostgresStore {
    async fn set_mls_key(
        &self,
        _device: DeviceNo,
        _key: MlsSignatureKey,
        _now: Timestamp,
    ) -> Result<MlsKeySet, StoreError> {
        Err(absent())
    }

    async fn publish_packages(
        &self,
        _device: DeviceNo,
        _upload: PackageUpload,
        _now: Timestamp,
    ) -> Result<PackagesPublished, StoreError> {
        Err(absent())
    }

    async fn claim_packages(
        &self,
        _user: UserId,
        _suite: CipherSuite,
        _except: Option<DeviceNo>,
        _onetime: OneTimeKeys,
        _now: Timestamp,
    ) -> Result<Vec<ClaimedPackage>, StoreError> {
        Err(absent())
    }

    async fn issued_packages(&self, _references: &[KeyPackageRef]) -> Result<Vec<IssuedPackage>, StoreError> {
        Err(absent())
    }
}

#[async_trait]
impl GroupActs for PostgresStore {
    async fn create_group(&self, _group: NewGroup, _now: Timestamp) -> Result<GroupCreated, StoreError> {
        Err(absent())
    }

    async fn standing(&self, _group: GroupId, _caller: &Caller) -> Result<Option<Standing>, StoreError> {
        Err(absent())
    }

    async fn commit_of(
        &self,
        _group: GroupId,
        _generation: i64,
        _epoch: Epoch,
    ) -> Result<Option<StoredCommit>, StoreError> {
        Err(absent())
    }

    async fn handshake_state(&self, _group: GroupId) -> Result<Option<HandshakeState>, StoreError> {
        Err(absent())
    }

    async fn group_state(&self, _group: GroupId, _digest: [u8; 32]) -> Result<Option<Bytes>, StoreError> {
        Err(absent())
    }

    async fn advance_group(&self, _advance: Advance, _now: Timestamp) -> Result<Advanced, StoreError> {
        Err(absent())
    }

    async fn propose(&self, _proposals: NewProposals, _now: Timestamp) -> Result<Proposed, StoreError> {
        Err(absent())
    }

    fn accept_group_send(&self, _send: GroupSend) -> BoxFuture<'static, Result<GroupAccepted, StoreError>> {
        Box::pin(async { Err(absent()) })
    }

    async fn group_log(
        &self,
        _group: GroupId,
        _after: Position,
        _limit: u32,
        _bytes: usize,
        _now: Timestamp,
    ) -> Result<LogPage, StoreError> {
        Err(absent())
    }

    async fn group_heads(&self, _groups: &[GroupId]) -> Result<Vec<(GroupId, Position)>, StoreError> {
        Err(absent())
    }

    async fn windows(
        &self,
        _device: DeviceNo,
        _group: Option<GroupId>,
    ) -> Result<Vec<(Window, Position)>, StoreError> {
        Err(absent())
    }

    async fn windows_in(&self, _device: DeviceNo, _group: GroupId) -> Result<Vec<Window>, StoreError> {
        Err(absent())
    }

    async fn ack_entries(&self, _device: DeviceNo, _acks: &[(GroupId, Position)]) -> Result<(), StoreError> {
        Err(absent())
    }

    async fn groups_of(
        &self,
        _user: UserId,
        _after: Option<GroupId>,
        _limit: u32,
    ) -> Result<Vec<Membership>, StoreError> {
        Err(absent())
    }

    async fn members(&self, _group: GroupId) -> Result<Option<Vec<Member>>, StoreError> {
        Err(absent())
    }

    async fn ratchet_tree(
        &self,
        _group: GroupId,
        _generation: i64,
        _epoch: Epoch,
    ) -> Result<Option<Bytes>, StoreError> {
        Err(absent())
    }

    async fn describe_group(
        &self,
        _group: GroupId,
        _by: &Caller,
        _name: Option<String>,
        _description: Option<String>,
    ) -> Result<Allowed, StoreError> {
        Err(absent())
    }

    async fn set_role(
        &self,
        _group: GroupId,
        _by: &Caller,
        _user: UserId,
        _role: Role,
    ) -> Result<Allowed, StoreError> {
        Err(absent())
    }

    async fn make_invite(
        &self,
        _group: GroupId,
        _by: &Caller,
        _invite: Invite,
        _token: [u8; 32],
    ) -> Result<Allowed, StoreError> {
        Err(absent())
    }

    async fn revoke_invite(
        &self,
        _group: GroupId,
        _by: &Caller,
        _invite: InviteId,
    ) -> Result<Allowed, StoreError> {
        Err(absent())
    }

    async fn invites(&self, _group: GroupId, _now: Timestamp) -> Result<Vec<Invite>, StoreError> {
        Err(absent())
    }

    async fn is_invited(
        &self,
        _group: GroupId,
        _token: [u8; 32],
        _now: Timestamp,
    ) -> Result<bool, StoreError> {
        Err(absent())
    }

    async fn change_roster(
        &self,
        _change: RosterChange,
        _now: Timestamp,
    ) -> Result<RosterChanged, StoreError> {
        Err(absent())
    }

    async fn report_commit(&self, _report: Report, _now: Timestamp) -> Result<Allowed, StoreError> {
        Err(absent())
    }

    async fn reset_group(
        &self,
        _group: NewGroup,
        _generation: i64,
        _now: Timestamp,
    ) -> Result<GroupReset, StoreError> {
        Err(absent())
    }
}
