//! Groups as the relay knows them: ids, epochs, roles, and the entries of a group's log.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{
    Caller, DeviceId, DeviceNo, GroupId, InvalidId, MessageId, MessageType, Position, Timestamp, UserId,
};

/// Leaves of an MLS group, or members of a roster group, at most.
pub const MAX_MEMBERS: usize = 1_500;

/// An MLS epoch (RFC 9420 §7.1), or the number of changes of a roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub i64);

impl Epoch {
    /// The epoch after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The epoch as RFC 9420 writes it. None for one beyond 2^53, which no group of this relay reaches.
    #[must_use]
    pub fn from_wire(epoch: u64) -> Option<Self> {
        i64::try_from(epoch).ok().filter(|epoch| *epoch < 1 << 53).map(Self)
    }

    /// The epoch as RFC 9420 writes it.
    #[must_use]
    pub const fn wire(self) -> u64 {
        self.0.unsigned_abs()
    }
}

/// How a group's handshakes travel, from the strictest to none. Fixed when the group is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Handshake {
    /// As `PublicMessage`: the relay checks what can be checked.
    Public = 0,
    /// As `PrivateMessage`: the relay orders them by their visible header.
    Private = 1,
    /// A roster group, without MLS.
    None = 2,
}

/// Who may join an MLS group by an external commit (RFC 9420 §12.4.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExternalJoin {
    /// Nobody.
    None = 0,
    /// A member device that lost its state, in place of its own leaf.
    Resync = 1,
    /// Also another device of a member user.
    Siblings = 2,
    /// Also whoever holds a join token.
    Token = 3,
}

/// What a user may do in a group. Ordered: a role may do whatever a lesser one may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Writes and reads.
    Member = 0,
    /// Also adds and removes, renames and invites.
    Admin = 1,
    /// Also gives roles and resets; cannot be removed. A group has exactly one.
    Owner = 2,
}

/// The MLS cipher suites that this relay takes (RFC 9420 §17.1). All hash with SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CipherSuite {
    /// `MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519`
    X25519Aes128 = 1,
    /// `MLS_128_DHKEMP256_AES128GCM_SHA256_P256`
    P256Aes128 = 2,
    /// `MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519`
    X25519ChaCha20 = 3,
}

impl CipherSuite {
    /// The suite with this number.
    ///
    /// # Errors
    /// When the relay does not take it.
    pub const fn new(number: i64) -> Result<Self, InvalidId> {
        match number {
            1 => Ok(Self::X25519Aes128),
            2 => Ok(Self::P256Aes128),
            3 => Ok(Self::X25519ChaCha20),
            _ => Err(InvalidId("the cipher suites 1, 2 and 3 are taken")),
        }
    }

    /// The number (RFC 9420 §17.1).
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// What its members sign with.
    #[must_use]
    pub const fn signature_scheme(self) -> SignatureScheme {
        match self {
            Self::X25519Aes128 | Self::X25519ChaCha20 => SignatureScheme::Ed25519,
            Self::P256Aes128 => SignatureScheme::EcdsaP256,
        }
    }
}

/// The identity in the basic credential of a device's leaf (RFC 9420 §5.3): `<user_id>:<device_id>`, the user id hyphenated
/// and in lower case. Every member of a group sees it.
#[must_use]
pub fn leaf_identity(user_id: UserId, device_id: &DeviceId) -> String {
    format!("{}:{}", user_id.uuid().hyphenated(), device_id.as_str())
}

/// What MLS leaves sign with, by the numbers of TLS (RFC 8446 §4.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignatureScheme {
    /// `ecdsa_secp256r1_sha256`: a public key is 65 bytes, uncompressed.
    EcdsaP256 = 0x0403,
    /// `ed25519`: a public key is 32 bytes.
    Ed25519 = 0x0807,
}

impl SignatureScheme {
    /// The scheme with this number.
    ///
    /// # Errors
    /// When the relay does not take it.
    pub const fn new(number: i64) -> Result<Self, InvalidId> {
        match number {
            0x0403 => Ok(Self::EcdsaP256),
            0x0807 => Ok(Self::Ed25519),
            _ => Err(InvalidId("the signature schemes 1027 (P-256) and 2055 (Ed25519) are taken")),
        }
    }

    /// The number (RFC 8446 §4.2.3).
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }
}

/// A device's MLS signature key of one scheme, and its identity key's word for it.
#[derive(Clone, PartialEq, Eq)]
pub struct MlsSignatureKey {
    /// The scheme.
    pub scheme: SignatureScheme,
    /// The public key.
    pub public_key: Bytes,
    /// The identity key's signature over the MLS key statement (API.md, "Signed statements").
    pub signature: super::Signature,
}

impl fmt::Debug for MlsSignatureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MlsSignatureKey({:?}, ..)", self.scheme)
    }
}

/// A `KeyPackageRef` (RFC 9420 §5.2) of a suite that hashes with SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyPackageRef(pub [u8; 32]);

impl fmt::Debug for KeyPackageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyPackageRef(..)")
    }
}

/// A key package that was checked (RFC 9420 §10).
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPackage {
    /// Its reference.
    pub reference: KeyPackageRef,
    /// Its suite.
    pub cipher_suite: CipherSuite,
    /// The signature key of its leaf.
    pub signature_key: Bytes,
    /// BLAKE3 of its init key: no two packages of a device share one.
    pub init_key_digest: [u8; 32],
    /// When its leaf ends.
    pub not_after: Timestamp,
    /// The package as an `MLSMessage`, as it came.
    pub body: Bytes,
}

impl fmt::Debug for KeyPackage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPackage({:?}, ..)", self.cipher_suite)
    }
}

/// What an entry of a group's log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A message.
    Application = 0,
    /// An MLS commit, which opened the epoch after its own.
    Commit = 1,
    /// An MLS proposal.
    Proposal = 2,
    /// A change of a roster group's members; the body is JSON that the relay wrote: `{"added":[user_id…],"removed":[…]}`.
    Membership = 3,
    /// The group was made anew under the same id; nothing of its former epochs goes on.
    Reset = 4,
}

/// An entry of a group's log, as every device of its window sees it.
#[derive(Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// The group.
    pub group_id: GroupId,
    /// Its place in the log.
    pub position: Position,
    /// What it is.
    pub kind: EntryKind,
    /// Its id.
    pub message_id: MessageId,
    /// Who sent it.
    pub sender_id: UserId,
    /// Which device sent it.
    pub sender_device_id: DeviceId,
    /// The sender's hint; only for application entries.
    pub message_type: Option<MessageType>,
    /// The epoch it was sent in.
    pub epoch: Epoch,
    /// The body; none once it expired.
    pub body: Option<Bytes>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When the body is erased before its time, if its sender asked for that.
    pub expires_at: Option<Timestamp>,
    /// The devices whose windows end with this entry, ascending.
    pub closes: Arc<[DeviceNo]>,
}

impl LogEntry {
    /// Roughly how many bytes the entry holds, for bounds.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.body.as_ref().map_or(0, Bytes::len) + self.closes.len() * 8 + 256
    }

    /// Whether this device's window ends with this entry.
    #[must_use]
    pub fn closes_window_of(&self, device: DeviceNo) -> bool {
        self.closes.binary_search(&device).is_ok()
    }
}

impl fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogEntry({:?}, {:?}, ..)", self.kind, self.position)
    }
}

/// The part of a group's log that a device may read, and how far it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The group.
    pub group_id: GroupId,
    /// The entry before the first one it holds.
    pub opened_after: Position,
    /// The last entry it holds; none while the device is in the group.
    pub closed_at: Option<Position>,
    /// The last entry that was acked; at least `opened_after`.
    pub cursor: Position,
    /// Where the `welcome` or `joined` item lies that the device must be given before any entry: a position of its mailbox.
    pub gate: Position,
    /// The epoch that the device joined at.
    pub joined_epoch: Epoch,
}

/// A group as its members see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Its id.
    pub group_id: GroupId,
    /// Its name: a sealed blob in base64, or what an old script wrote with the plaintext guard off.
    pub name: Option<String>,
    /// Its description, like the name.
    pub description: Option<String>,
    /// Who made it.
    pub created_by: UserId,
    /// When.
    pub created_at: Timestamp,
    /// How many users are in it.
    pub member_count: u32,
    /// How its handshakes travel.
    pub handshake: Handshake,
    /// Who may join by an external commit.
    pub external_join: ExternalJoin,
    /// Its suite; none for a roster group.
    pub cipher_suite: Option<CipherSuite>,
    /// How often it was reset.
    pub generation: i64,
    /// The current epoch.
    pub epoch: Epoch,
    /// The lowest epoch from which application messages are taken; 0 for a roster group, whose messages name none.
    pub oldest_epoch: Epoch,
    /// The last position given in its log.
    pub head: Position,
    /// Whether the store was restored to a state that its members may have left behind: it goes on after a reset or an
    /// external commit.
    pub rolled_back: bool,
}

/// A group and what one of its members is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The group.
    pub group: Group,
    /// What the member may do.
    pub role: Role,
    /// Whether it was added to a roster group and has not acted in it yet.
    pub invited: bool,
}

/// A user in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The user.
    pub user_id: UserId,
    /// What it may do.
    pub role: Role,
    /// Whether it was added to a roster group and has not acted in it yet.
    pub invited: bool,
    /// Since when it is in the group.
    pub joined_at: Timestamp,
    /// Its devices in the group, oldest first: leaves of an MLS group, windows of a roster group.
    pub devices: Vec<MemberDevice>,
}

/// A device in a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberDevice {
    /// The incarnation; never leaves the relay.
    pub device_no: DeviceNo,
    /// The device.
    pub device_id: DeviceId,
    /// Its leaf; none in roster groups, and where the relay cannot know it (private handshakes).
    pub leaf_index: Option<u32>,
    /// Whether it is still active; a dead leaf may be removed by anyone.
    pub active: bool,
    /// Whether it has proposed to leave.
    pub leaving: bool,
}

/// An application message for a group, parsed and checked as far as it can be without the group.
#[derive(Debug, Clone)]
pub struct GroupSend {
    /// The sending device.
    pub sender: Caller,
    /// The group.
    pub group_id: GroupId,
    /// The client's id of the message, or one made for it.
    pub message_id: MessageId,
    /// BLAKE3 over everything in this send that the client decides.
    pub digest: [u8; 32],
    /// The epoch in the header of the `PrivateMessage`; none for an opaque body, which only a roster group takes.
    pub epoch: Option<Epoch>,
    /// The hint.
    pub message_type: MessageType,
    /// When the body is erased, if the client asked for that.
    pub expires_at: Option<Timestamp>,
    /// The sealed body.
    pub body: Bytes,
}

/// What the sender learns of an accepted group message. The same for the first answer and every repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupReceipt {
    /// The message.
    pub message_id: MessageId,
    /// Its group.
    pub group_id: GroupId,
    /// Its place in the log.
    pub position: Position,
    /// The epoch it was sent in.
    pub epoch: Epoch,
    /// When it was accepted.
    pub accepted_at: Timestamp,
}
