//! The words of the relay as types that cannot hold a wrong value.
//!
//! Nothing here knows of HTTP, SQL or Redis; time comes in as an argument.

mod addressing;
mod batch;
mod block;
mod clock;
mod conversation;
mod envelope;
mod group;
mod ids;
mod keys;
mod quota;
mod sealed;
mod security;

pub use addressing::{Addressee, Mismatch, address};
pub use batch::{Batch, Budget};
pub use block::{BLOCK_MEMORY, Block, Network, NetworkKey, NetworkKeys};
pub use clock::{Clock, ManualClock, SystemClock, Timestamp};
pub use conversation::ConversationKey;
pub use envelope::{
    Addressed, Bodies, Caller, Conversation, Delivery, DeviceName, Envelope, EnvelopeType, Item,
    ListedDevice, METADATA_LIFE, Message, MessageType, Receipt, Send, Status,
};
pub use group::{
    CipherSuite, EntryKind, Epoch, ExternalJoin, Group, GroupReceipt, GroupSend, Handshake, KeyPackage,
    KeyPackageRef, LogEntry, MAX_MEMBERS, Member, MemberDevice, Membership, MlsSignatureKey, Role,
    SignatureScheme, Window, leaf_identity,
};
pub use ids::{
    ConversationId, DeviceId, DeviceNo, DeviceNumber, GroupId, InvalidId, InviteId, KeyId, MessageId,
    Position, RegistrationId, Sequence, SessionId, UserId,
};
pub use keys::{
    Bundle, Device, IdentityKey, KeyKind, KeyStats, LastingKeys, LinkedBy, OneTimePreKey, Signature,
    SignedPreKey,
};
pub use quota::{BudgetKey, Drawn, Lease, Quota, SELDOM_ACTS_PER_HOUR};
pub use sealed::{SEALED_MIN, is_plaintext};
pub use security::{AuditEntry, Pseudonym, Pseudonyms, SecurityEvent};
