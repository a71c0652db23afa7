//! What acts on logins take and become.

use std::time::Duration;

use crate::domain::{Caller, DeviceId, DeviceNo, DeviceNumber, SessionId, Timestamp};

/// Something that works once: a challenge, a ticket, an admission token.
#[derive(Debug, Clone, Copy)]
pub struct SingleUse {
    /// BLAKE3 of it.
    pub hash: [u8; 32],
    /// The moment from which it is refused for its age, and so need not be remembered. It is remembered for 5 minutes
    /// more, for clocks that disagree.
    pub expires_at: Timestamp,
}

/// A session to be opened.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id.
    pub session_id: SessionId,
    /// BLAKE3 of its refresh token; the token itself is never stored.
    pub refresh_hash: [u8; 32],
    /// When the refresh token ends.
    pub expires_at: Timestamp,
}

/// Sessions that a device may have. A further one takes the place of the one that was refreshed longest ago.
pub const SESSIONS_PER_DEVICE: u32 = 10;

/// How long the refresh token before the current one is honoured, while the current one is unused.
pub const REFRESH_GRACE: Duration = Duration::from_mins(1);

/// How long a revocation is kept. No access token lives as long: a node that was away for a while, whose clock may be a
/// little off, still learns of every one whose tokens could come.
pub const REVOCATION_LIFE: Duration = Duration::from_hours(25);

/// How long security events are kept.
pub const AUDIT_LIFE: Duration = Duration::from_hours(90 * 24);

/// A device for which a token may be issued, and since when its user id is claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The device.
    pub caller: Caller,
    /// When its user id was claimed.
    pub user_since: Timestamp,
}

/// A device that proved itself and wants a session.
#[derive(Debug, Clone)]
pub struct Login {
    /// The incarnation.
    pub device_no: DeviceNo,
    /// The challenge that it answered.
    pub challenge: SingleUse,
    /// The session.
    pub session: NewSession,
}

/// What became of a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LoggedIn {
    /// The session is open.
    LoggedIn(Principal),
    /// The challenge was answered before.
    ChallengeUsed,
    /// The device was deactivated.
    Gone,
}

/// A refresh token that came, and what is to take its place.
#[derive(Debug, Clone)]
pub struct Rotation {
    /// The session it names.
    pub session_id: SessionId,
    /// BLAKE3 of the token that came. The caller has checked that the relay made that token for this session.
    pub presented: [u8; 32],
    /// BLAKE3 of its successor.
    pub next: [u8; 32],
    /// When the successor ends.
    pub expires_at: Timestamp,
}

/// What became of a refresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotated {
    /// The successor is current, since `at` and until `expires_at`. A repeat within [`REFRESH_GRACE`], while the successor
    /// is unused, gets the same.
    Rotated {
        /// Whose session it is.
        principal: Principal,
        /// When the first answer was given.
        at: Timestamp,
        /// When the successor ends.
        expires_at: Timestamp,
    },
    /// A token of this session that was used before came again: the session is ended. Whose it was.
    Reused(DeviceNo),
    /// There is no such session, or it has ended.
    Unknown,
}

/// A session as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub session_id: SessionId,
    /// The device.
    pub device_id: DeviceId,
    /// Its number in Signal addresses.
    pub device_number: DeviceNumber,
    /// When the device logged in.
    pub created_at: Timestamp,
    /// The day it was opened or refreshed last.
    pub last_used: Timestamp,
    /// When its refresh token ends.
    pub expires_at: Timestamp,
}

/// Something whose access tokens are worth nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Revocation {
    /// Every token of this incarnation.
    Device(DeviceNo),
    /// Every token of this session of a device.
    Session(DeviceNo, SessionId),
}
