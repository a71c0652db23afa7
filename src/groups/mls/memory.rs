//! The storage that the library asks for, over memory: filled from a row before a group is loaded, read back after a commit is
//! merged.

use std::cell::RefCell;

use openmls_traits::{
    public_storage::PublicStorageProvider,
    storage::{CURRENT_VERSION, traits},
};
use serde::{Serialize, de::DeserializeOwned};

use super::StateFault;

/// The four parts of a group's public state, each in postcard. Proposals are not among them: they are kept as they came and
/// processed anew.
#[derive(Debug, Default)]
pub(super) struct Memory {
    pub(super) tree: Part,
    pub(super) context: Part,
    pub(super) interim_transcript_hash: Part,
    pub(super) confirmation_tag: Part,
}

/// A part, empty while there is none.
#[derive(Debug, Default)]
pub(super) struct Part(RefCell<Vec<u8>>);

impl Part {
    pub(super) fn new(bytes: &[u8]) -> Self {
        Self(RefCell::new(bytes.to_vec()))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner()
    }

    fn write(&self, value: &impl Serialize) -> Result<(), StateFault> {
        let bytes = postcard::to_stdvec(value).map_err(|_| StateFault::Codec)?;
        self.0.replace(bytes);
        Ok(())
    }

    fn read<T: DeserializeOwned>(&self) -> Result<Option<T>, StateFault> {
        let bytes = self.0.borrow();
        if bytes.is_empty() {
            return Ok(None);
        }
        // What is left over would be a sign of another format.
        match postcard::take_from_bytes(&bytes) {
            Ok((value, [])) => Ok(Some(value)),
            Ok(_) | Err(_) => Err(StateFault::Codec),
        }
    }

    fn clear(&self) {
        self.0.borrow_mut().clear();
    }
}

impl PublicStorageProvider<CURRENT_VERSION> for Memory {
    type PublicError = StateFault;

    fn write_tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
        tree: &T,
    ) -> Result<(), StateFault> {
        self.tree.write(tree)
    }

    fn write_interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        T: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        hash: &T,
    ) -> Result<(), StateFault> {
        self.interim_transcript_hash.write(hash)
    }

    fn write_context<G: traits::GroupId<CURRENT_VERSION>, T: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
        context: &T,
    ) -> Result<(), StateFault> {
        self.context.write(context)
    }

    fn write_confirmation_tag<
        G: traits::GroupId<CURRENT_VERSION>,
        T: traits::ConfirmationTag<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        tag: &T,
    ) -> Result<(), StateFault> {
        self.confirmation_tag.write(tag)
    }

    fn queue_proposal<
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        Q: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
        _: &R,
        _: &Q,
    ) -> Result<(), StateFault> {
        Ok(())
    }

    fn queued_proposals<
        G: traits::GroupId<CURRENT_VERSION>,
        R: traits::ProposalRef<CURRENT_VERSION>,
        Q: traits::QueuedProposal<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Vec<(R, Q)>, StateFault> {
        Ok(Vec::new())
    }

    fn tree<G: traits::GroupId<CURRENT_VERSION>, T: traits::TreeSync<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, StateFault> {
        self.tree.read()
    }

    fn group_context<G: traits::GroupId<CURRENT_VERSION>, T: traits::GroupContext<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, StateFault> {
        self.context.read()
    }

    fn interim_transcript_hash<
        G: traits::GroupId<CURRENT_VERSION>,
        T: traits::InterimTranscriptHash<CURRENT_VERSION>,
    >(
        &self,
        _: &G,
    ) -> Result<Option<T>, StateFault> {
        self.interim_transcript_hash.read()
    }

    fn confirmation_tag<G: traits::GroupId<CURRENT_VERSION>, T: traits::ConfirmationTag<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<Option<T>, StateFault> {
        self.confirmation_tag.read()
    }

    fn delete_tree<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), StateFault> {
        self.tree.clear();
        Ok(())
    }

    fn delete_confirmation_tag<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), StateFault> {
        self.confirmation_tag.clear();
        Ok(())
    }

    fn delete_context<G: traits::GroupId<CURRENT_VERSION>>(&self, _: &G) -> Result<(), StateFault> {
        self.context.clear();
        Ok(())
    }

    fn delete_interim_transcript_hash<G: traits::GroupId<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), StateFault> {
        self.interim_transcript_hash.clear();
        Ok(())
    }

    fn remove_proposal<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        _: &G,
        _: &R,
    ) -> Result<(), StateFault> {
        Ok(())
    }

    fn clear_proposal_queue<G: traits::GroupId<CURRENT_VERSION>, R: traits::ProposalRef<CURRENT_VERSION>>(
        &self,
        _: &G,
    ) -> Result<(), StateFault> {
        Ok(())
    }
}
