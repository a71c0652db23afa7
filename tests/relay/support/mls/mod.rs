//! Real MLS clients, openmls and mls-rs, behind one face: what a device does with its own keys. What goes over the wire is
//! bytes; the relay is spoken to by [`super::client`].

mod openmls;
mod peer;
pub(crate) mod provider;
mod typescript;

use uuid::Uuid;

pub(crate) use self::{
    openmls::openmls,
    peer::mls_rs,
    typescript::{is_installed as ts_mls_is_installed, ts_mls},
};

/// The suites that all clients know.
pub(crate) const SUITES: [u16; 3] = [1, 2, 3];

/// How a client writes its handshakes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// The cipher suite.
    pub(crate) suite: u16,
    /// Whether handshakes are sealed.
    pub(crate) private: bool,
}

impl Default for Manner {
    fn default() -> Self {
        Self { suite: 1, private: false }
    }
}

/// What to commit.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// New keys for the own leaf, and whatever is pending.
    Update,
    /// Members by their key packages.
    Add(Vec<Vec<u8>>),
    /// Members by their leaves.
    Remove(Vec<u32>),
}

/// A commit and what goes with it, all as `MLSMessage`s.
#[derive(Debug, Clone)]
pub(crate) struct Bundle {
    pub(crate) commit: Vec<u8>,
    pub(crate) group_info: Vec<u8>,
    pub(crate) welcome: Option<Vec<u8>>,
}

/// A group of one, in epoch 0.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) group_info: Vec<u8>,
    pub(crate) tree: Vec<u8>,
}

/// What a message was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Application(Vec<u8>),
    Proposal,
    /// The group is in the next epoch.
    Commit,
    /// The group is in the next epoch, without this client.
    Removed,
}

/// The MLS half of one device in one group. Wrong use and refused messages panic, but where a `Result` says so.
pub(crate) trait MlsClient: Send {
    /// Which library this is.
    fn library(&self) -> &'static str;
    /// The number of the signature scheme, and the public key.
    fn signature_key(&self) -> (u16, Vec<u8>);
    /// A fresh key package.
    fn key_package(&mut self, last_resort: bool) -> Vec<u8>;
    /// Makes a group.
    fn create(&mut self, group: Uuid) -> Made;
    /// Prepares a commit; the group moves on by [`MlsClient::accepted`] alone.
    fn commit(&mut self, change: Change) -> Bundle;
    /// The relay has taken the commit.
    fn accepted(&mut self);
    /// The relay has not.
    fn refused(&mut self);
    /// Joins by a Welcome. Where handshakes are sealed the relay knows no tree, and the Welcome carries it.
    fn join(&mut self, welcome: &[u8], tree: Option<&[u8]>);
    /// Prepares an external commit, in place of the leaf with this index if one is named.
    fn join_externally(&mut self, group_info: &[u8], tree: &[u8], instead_of: Option<u32>) -> Bundle;
    /// Takes a message of somebody else.
    fn receive(&mut self, message: &[u8]) -> Result<Received, String>;
    /// Seals a message.
    fn seal(&mut self, plaintext: &[u8]) -> Vec<u8>;
    /// Proposes to leave, by a Remove of the own leaf.
    fn propose_leave(&mut self) -> Vec<u8>;
    /// Proposes to leave by a `SelfRemove`; none where the library has no such proposal, or another one under that name.
    fn propose_self_remove(&mut self) -> Option<Vec<u8>> {
        None
    }
    /// The ratchet tree.
    fn tree(&self) -> Vec<u8>;
    /// The epoch.
    fn epoch(&self) -> u64;
    /// What all members of an epoch share and nobody else knows.
    fn authenticator(&self) -> Vec<u8>;
    /// The own leaf.
    fn leaf(&self) -> u32;
    /// The leaves and the identities of their credentials, by leaf.
    fn members(&self) -> Vec<(u32, String)>;
}

/// A client of some library for the device of this identity (`<user_id>:<device_id>`).
pub(crate) type MakeClient = fn(&str, Manner) -> Box<dyn MlsClient>;

/// The clients there are.
pub(crate) const LIBRARIES: [MakeClient; 2] = [openmls, mls_rs];
