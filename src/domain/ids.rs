//! Identifiers, parsed once at the edge.
//!
//! None of them implements `Display`, and `Debug` hides the value, so that no id reaches a log by accident.

use std::fmt;

use uuid::Uuid;

/// Why a text or number is not the identifier it should be. The words are meant for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidId(pub &'static str);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Uuid);

        impl $name {
            /// Takes a UUID as this kind of id.
            #[must_use]
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID, for the wire and the store.
            #[must_use]
            pub const fn uuid(self) -> Uuid {
                self.0
            }

            /// Whether this is the nil UUID, which stands for "absent" in old scripts.
            #[must_use]
            pub const fn is_nil(self) -> bool {
                self.0.is_nil()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

uuid_id!(
    /// A user, claimed for ever by its first registration.
    UserId
);
uuid_id!(
    /// An accepted message or notice, unique over the relay.
    MessageId
);
uuid_id!(
    /// A conversation between two users, or of a user with itself.
    ConversationId
);
uuid_id!(
    /// A group; the MLS `group_id` is its 16 bytes.
    GroupId
);
uuid_id!(
    /// An invitation to join a group by an external commit.
    InviteId
);
uuid_id!(
    /// A login of one device incarnation; its tokens and refresh tokens hang on it.
    SessionId
);

impl MessageId {
    /// A fresh id for something accepted at `now`: a UUID of version 7 (RFC 9562), so that ids lie near each other in
    /// an index.
    #[must_use]
    pub fn fresh(now: super::Timestamp) -> Self {
        let seconds = u64::try_from(now.seconds()).unwrap_or(0);
        let nanos = u32::try_from(now.millis().rem_euclid(1000)).unwrap_or(0) * 1_000_000;
        Self(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, nanos)))
    }
}

/// The name that a user gave to a device: 1–64 of `A–Z a–z 0–9 . _ -`, and not `me`,
/// which stands for the caller's own device in paths.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId(Box<str>);

impl DeviceId {
    /// Parses a device id.
    ///
    /// # Errors
    /// When the length, a character or the reserved word `me` forbids it.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        if text.is_empty() || text.len() > 64 {
            return Err(InvalidId("a device id has 1 to 64 characters"));
        }
        if !text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) {
            return Err(InvalidId("a device id holds letters, digits, '.', '_' and '-' only"));
        }
        if text == "me" {
            return Err(InvalidId("the device id 'me' is reserved for the caller's own device"));
        }
        Ok(Self(text.into()))
    }

    /// The text, for the wire and the store.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceId(..)")
    }
}

/// One incarnation of a device. Never reused: what a device owns hangs on this number, so a device id that is
/// registered anew inherits nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNo(pub i64);

impl fmt::Debug for DeviceNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DeviceNo(..)")
    }
}

/// What Signal clients put into `ProtocolAddress(user_id, device_number)`: 1–127.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceNumber(u8);

impl DeviceNumber {
    /// The highest number that libsignal accepts.
    pub const MAX: u8 = 127;

    /// Takes a number from 1 to 127.
    ///
    /// # Errors
    /// When the number is outside that range.
    pub fn new(number: i64) -> Result<Self, InvalidId> {
        match u8::try_from(number) {
            Ok(number @ 1..=Self::MAX) => Ok(Self(number)),
            _ => Err(InvalidId("a device number lies between 1 and 127")),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u8 {
        self.0
    }
}

/// Signal's 14-bit number that tells incarnations apart: 1–16383.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistrationId(u16);

impl RegistrationId {
    /// Takes a number from 1 to 16383.
    ///
    /// # Errors
    /// When the number is outside that range.
    pub fn new(number: i64) -> Result<Self, InvalidId> {
        match u16::try_from(number) {
            Ok(number @ 1..=0x3fff) => Ok(Self(number)),
            _ => Err(InvalidId("a registration id lies between 1 and 16383")),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

/// A pre-key's id within (incarnation, kind): 0 … 2^31−1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(u32);

impl KeyId {
    /// Takes a number from 0 to 2^31−1.
    ///
    /// # Errors
    /// When the number is outside that range.
    pub fn new(number: i64) -> Result<Self, InvalidId> {
        match u32::try_from(number) {
            Ok(number) if number <= 0x7fff_ffff => Ok(Self(number)),
            _ => Err(InvalidId("a key id lies between 0 and 2147483647")),
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// A place in a mailbox or in the log of a group. Positions start at 1, follow the order of commits and have no gap; 0 is the place before
/// the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position(pub i64);

impl Position {
    /// The place before the first item.
    pub const START: Self = Self(0);

    /// The place after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A number that strictly increases within a conversation: microseconds of acceptance, moved forward where a clock
/// lags. It tells nothing beyond the timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sequence(pub i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_id_is_short_plain_text_and_never_me() {
        assert!(DeviceId::parse("phone-1.a_B").is_ok());
        for bad in ["", "me", "a b", "é", "a/b", &"x".repeat(65)] {
            assert!(DeviceId::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn numbers_outside_their_range_are_refused() {
        assert!(
            DeviceNumber::new(0).is_err()
                && DeviceNumber::new(128).is_err()
                && DeviceNumber::new(127).is_ok()
        );
        assert!(RegistrationId::new(0).is_err() && RegistrationId::new(16384).is_err());
        assert!(RegistrationId::new(16383).is_ok());
        assert!(KeyId::new(-1).is_err() && KeyId::new(1 << 31).is_err() && KeyId::new(0).is_ok());
    }

    #[test]
    fn debug_output_hides_every_id() {
        let id = Uuid::from_u128(0x1234_5678);
        assert_eq!(format!("{:?}", UserId::new(id)), "UserId(..)");
        assert_eq!(format!("{:?}", DeviceId::parse("phone").unwrap()), "DeviceId(..)");
        assert_eq!(format!("{:?}", DeviceNo(77)), "DeviceNo(..)");
    }
}
