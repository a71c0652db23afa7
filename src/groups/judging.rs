//! From the store to the MLS rules and back: what handshakes are judged by is gathered, judged where no socket waits, and
//! written in the store's words.

use bytes::Bytes;

use super::{
    CommitRequest, Groups, Refusal,
    mls::{
        self, CommitBundle, CommitFault, EpochMaterial, GroupAt, JudgedCommit, JudgedProposal, KnownPackage,
        Sender, Welcome,
    },
};
use crate::{
    domain::{
        Caller, CipherSuite, DeviceId, DeviceNo, ExternalJoin, GroupId, Handshake, KeyPackageRef, Member,
        MlsSignatureKey, UserId,
    },
    hot::HotError,
    store::{EpochState, HandshakeState, IssuedPackage, Joiner, Standing},
};

/// Who asks, and how it stands in the group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) caller: &'a Caller,
    pub(super) standing: &'a Standing,
    /// Whether it showed a join token that holds.
    pub(super) join_token: bool,
}

/// A commit that keeps the rules, and what it was judged by.
pub(super) struct Judged {
    pub(super) version: i64,
    pub(super) generation: i64,
    /// Everybody in the group before it.
    pub(super) members: Vec<Member>,
    /// The users of the devices it adds.
    pub(super) added_users: Vec<UserId>,
    pub(super) commit: JudgedCommit,
}

impl Judged {
    /// The state that it leads to.
    pub(super) fn kept_state(&self) -> Option<Bytes> {
        self.commit.next.state.clone()
    }
}

/// Everything that is asked of the store before handshakes are judged; owned, because another thread judges.
pub(super) struct Ground {
    caller: Caller,
    join_token: bool,
    keys: Vec<MlsSignatureKey>,
    group: GroupId,
    cipher_suite: CipherSuite,
    external_join: ExternalJoin,
    pub(super) handshake: Handshake,
    pub(super) state: HandshakeState,
    bytes: Bytes,
}

impl Ground {
    fn group(&self) -> GroupAt<'_> {
        GroupAt {
            group_id: self.group,
            epoch: self.state.epoch,
            cipher_suite: self.cipher_suite,
            external_join: self.external_join,
            members: &self.state.members,
        }
    }

    fn sender(&self) -> Sender<'_> {
        Sender { caller: &self.caller, keys: &self.keys, join_token: self.join_token }
    }
}

impl Groups {
    /// What handshakes are judged by; none when the group moved on since the standing was read.
    pub(super) async fn ground(&self, question: Question<'_>) -> Result<Option<Ground>, Refusal> {
        let Question { caller, standing, join_token } = question;
        let group = &standing.group;
        let Some(cipher_suite) = group.cipher_suite else { return Err(Refusal::RosterGroup) };
        let state = self.store.handshake_state(group.group_id).await?.ok_or(Refusal::UnknownGroup)?;
        if state.generation != group.generation || state.epoch != group.epoch {
            return Ok(None);
        }
        let bytes = match state.state_digest {
            Some(digest) => match self.state_bytes(group.group_id, digest).await? {
                Some(bytes) => bytes,
                None => return Ok(None),
            },
            None => Bytes::new(),
        };
        Ok(Some(Ground {
            keys: self.mls_keys(caller).await?,
            caller: caller.clone(),
            join_token,
            group: group.group_id,
            cipher_suite,
            external_join: group.external_join,
            handshake: group.handshake,
            state,
            bytes,
        }))
    }

    /// The registered signature keys of the calling device.
    pub(super) async fn mls_keys(&self, caller: &Caller) -> Result<Vec<MlsSignatureKey>, Refusal> {
        let devices = self.store.devices(caller.user_id).await?;
        let own = devices.into_iter().find(|device| device.device_no == caller.device_no);
        Ok(own.map(|device| device.mls_signature_keys).unwrap_or_default())
    }

    /// What the store knows of these packages.
    pub(super) async fn packages(&self, references: &[KeyPackageRef]) -> Result<Vec<KnownPackage>, Refusal> {
        if references.is_empty() {
            return Ok(Vec::new());
        }
        let issued = self.store.issued_packages(references).await?;
        Ok(issued.into_iter().map(known).collect())
    }

    /// Judges a commit; none when the group moved on since the standing was read.
    pub(super) async fn judge_commit(
        &self,
        question: Question<'_>,
        request: &CommitRequest,
    ) -> Result<Option<Judged>, Refusal> {
        let Some(ground) = self.ground(question).await? else { return Ok(None) };
        let packages = self.packages(&welcomed(request.welcome.as_ref())?).await?;
        let request = request.clone();
        let (ground, packages, verdict) = self
            .checks
            .run(move || {
                let verdict = judge(&ground, &request, &packages);
                (ground, packages, verdict)
            })
            .await?;
        let commit = verdict.map_err(|refusal| Refusal::Mls("commit", refusal))?;
        let owner = |joining: &mls::Joining| {
            packages
                .iter()
                .find(|known| known.reference == joining.reference)
                .map(|known| known.owner.user_id)
        };
        Ok(Some(Judged {
            version: ground.state.version,
            generation: ground.state.generation,
            added_users: commit.joiners.iter().filter_map(owner).collect(),
            members: ground.state.members,
            commit,
        }))
    }

    /// Judges proposals of one device.
    pub(super) async fn judge_proposals(
        &self,
        ground: Ground,
        proposals: Vec<Bytes>,
    ) -> Result<Vec<JudgedProposal>, Refusal> {
        let references: Vec<_> =
            proposals.iter().filter_map(|proposal| mls::added_package(proposal)).collect();
        let packages = self.packages(&references).await?;
        let verdict = self
            .checks
            .run(move || {
                let (group, sender) = (ground.group(), ground.sender());
                match ground.handshake {
                    Handshake::Private => proposals
                        .iter()
                        .map(|proposal| {
                            mls::judge_private_proposal(&group, &ground.state.group_info, &sender, proposal)
                        })
                        .collect(),
                    Handshake::Public | Handshake::None => {
                        mls::judge_proposals(&group, &ground.bytes, &sender, &proposals, &packages)
                            .map_err(|(_, refusal)| refusal)
                    }
                }
            })
            .await?;
        verdict.map_err(|refusal| Refusal::Mls("proposal", refusal))
    }

    /// The state with this digest, from the cache or else the store; none when the group has another one by now.
    async fn state_bytes(&self, group: GroupId, digest: [u8; 32]) -> Result<Option<Bytes>, Refusal> {
        match self.switchboard.engine().state(group, digest).await {
            // Whatever a cache holds is believed only as far as its digest goes.
            Ok(Some(bytes)) if *blake3::hash(&bytes).as_bytes() == digest => return Ok(Some(bytes)),
            Ok(Some(_)) => tracing::warn!("the cache of group states answered with another state"),
            Ok(None) => {}
            Err(HotError(error)) => tracing::debug!(%error, "a group's state is read from the store"),
        }
        let bytes = self.store.group_state(group, digest).await?;
        if let Some(bytes) = &bytes {
            self.cache(group, digest, bytes.clone()).await;
        }
        Ok(bytes)
    }

    /// Keeps a state that the store has now, for the next commit.
    pub(super) async fn keep(&self, group: GroupId, state: Option<Bytes>) {
        if let Some(state) = state {
            self.cache(group, *blake3::hash(&state).as_bytes(), state).await;
        }
    }

    async fn cache(&self, group: GroupId, digest: [u8; 32], state: Bytes) {
        if let Err(HotError(error)) = self.switchboard.engine().keep_state(group, digest, state).await {
            tracing::debug!(%error, "a group's state is not cached");
        }
    }
}

fn judge(
    ground: &Ground,
    request: &CommitRequest,
    packages: &[KnownPackage],
) -> Result<JudgedCommit, mls::Refusal> {
    let bundle = CommitBundle {
        commit: &request.commit,
        group_info: &request.group_info,
        welcome: request.welcome.as_ref(),
    };
    let (group, sender) = (ground.group(), ground.sender());
    match ground.handshake {
        Handshake::Private => {
            let declared = request.removed.as_deref().unwrap_or_default();
            let removed = numbers(declared, &ground.state.members)?;
            mls::judge_private_commit(&group, &ground.state.group_info, &sender, &bundle, &removed, packages)
        }
        Handshake::Public | Handshake::None => {
            let pending: Vec<_> = ground.state.proposals.iter().map(|pending| pending.body.clone()).collect();
            mls::judge_commit(&group, &ground.bytes, &pending, &sender, &bundle, packages)
        }
    }
}

/// The devices in the group that are said to be removed.
pub(super) fn numbers(
    declared: &[(UserId, DeviceId)],
    members: &[Member],
) -> Result<Vec<DeviceNo>, mls::Refusal> {
    let number = |(user, id): &(UserId, DeviceId)| {
        let member = members.iter().find(|member| member.user_id == *user);
        let device = member.and_then(|member| member.devices.iter().find(|device| device.device_id == *id));
        device.map(|device| device.device_no).ok_or(mls::Refusal::InvalidCommit(CommitFault::RemovedUnknown))
    };
    declared.iter().map(number).collect()
}

/// The key packages that a Welcome names.
pub(super) fn welcomed(welcome: Option<&Bytes>) -> Result<Vec<KeyPackageRef>, Refusal> {
    let Some(welcome) = welcome else { return Ok(Vec::new()) };
    Ok(Welcome::parse(welcome).map_err(|why| Refusal::Mls("welcome", why.into()))?.references())
}

fn known(issued: IssuedPackage) -> KnownPackage {
    let IssuedPackage { reference, owner, active, cipher_suite, usable } = issued;
    KnownPackage { reference, owner, active, cipher_suite, usable }
}

/// The joiners of a judged commit in the store's words.
pub(super) fn joiners(commit: &JudgedCommit) -> Vec<Joiner> {
    let joiner = |joining: &mls::Joining| Joiner {
        device_no: joining.device_no,
        reference: joining.reference,
        leaf_index: joining.leaf_index,
        welcome: joining.welcome.clone(),
    };
    commit.joiners.iter().map(joiner).collect()
}

/// What is kept of an epoch in the store's words.
pub(super) fn epoch_state(material: EpochMaterial) -> EpochState {
    EpochState { state: material.state, group_info: material.group_info, tree: material.tree }
}
