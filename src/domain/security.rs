//! What the owner of a user id may want to know about its devices: the trail of security events.

use std::fmt;

use super::{DeviceNumber, Timestamp, UserId};

/// Something that changed, or tried to change, who can act or read as a user. Never anything about messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SecurityEvent {
    /// A device was registered, linked or recovered.
    DeviceAdded = 0,
    /// A device was deactivated.
    DeviceDeactivated = 1,
    /// A signed pre-key was replaced.
    KeyRotated = 2,
    /// A refresh token came a second time, and its session was ended.
    TokenReused = 3,
    /// A device vouched for a newcomer and got a link token.
    LinkIssued = 4,
    /// The host application's admission token, or a recovery proof, was refused.
    AdmissionRefused = 5,
    /// Somebody fetched the user's keys faster than the limits allow.
    LimitTripped = 6,
    /// A device proved itself and opened a session.
    LoggedIn = 7,
    /// A device ended a session.
    LoggedOut = 8,
}

impl SecurityEvent {
    /// Every event there is.
    pub const ALL: [Self; 9] = [
        Self::DeviceAdded,
        Self::DeviceDeactivated,
        Self::KeyRotated,
        Self::TokenReused,
        Self::LinkIssued,
        Self::AdmissionRefused,
        Self::LimitTripped,
        Self::LoggedIn,
        Self::LoggedOut,
    ];

    /// The event that is stored under this number.
    #[must_use]
    pub fn from_number(number: i64) -> Option<Self> {
        Self::ALL.into_iter().find(|event| *event as i64 == number)
    }
}

/// An event as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEntry {
    /// Its place in the trail, for reading on.
    pub entry: i64,
    /// What happened.
    pub event: SecurityEvent,
    /// The device it happened to, if it was one.
    pub device_number: Option<DeviceNumber>,
    /// The device that did it, where that is another.
    pub by: Option<DeviceNumber>,
    /// When.
    pub at: Timestamp,
}

/// Under what name a user stands in the trail: who has the table alone does not learn whose events these are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pseudonym(pub [u8; 32]);

impl fmt::Debug for Pseudonym {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonym(..)")
    }
}

/// Gives users their pseudonyms: keyed hashes, the same on every node.
#[derive(Clone)]
pub struct Pseudonyms([u8; 32]);

impl Pseudonyms {
    /// Pseudonyms under this key.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The user's pseudonym.
    #[must_use]
    pub fn of(&self, user: UserId) -> Pseudonym {
        Pseudonym(*blake3::keyed_hash(&self.0, user.uuid().as_bytes()).as_bytes())
    }
}

impl fmt::Debug for Pseudonyms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pseudonyms(..)")
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn every_event_comes_back_from_its_number() {
        for event in SecurityEvent::ALL {
            assert_eq!(SecurityEvent::from_number(event as i64), Some(event));
        }
        assert_eq!(SecurityEvent::from_number(9), None);
    }

    #[test]
    fn a_pseudonym_is_the_users_alone_and_the_keys() {
        let user = |number| UserId::new(Uuid::from_u128(number));
        let pseudonyms = Pseudonyms::new([1; 32]);
        assert_eq!(pseudonyms.of(user(1)), pseudonyms.of(user(1)));
        assert_ne!(pseudonyms.of(user(1)), pseudonyms.of(user(2)));
        assert_ne!(pseudonyms.of(user(1)), Pseudonyms::new([2; 32]).of(user(1)));
    }
}
