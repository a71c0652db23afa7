//! The bodies of `welcome` and `joined` items as the engines store them: a version byte, the group, and for a Welcome its
//! epoch and its bytes. And the body of a `membership` entry.

use bytes::Bytes;
use uuid::Uuid;

use super::LOG_LIFE;
use crate::domain::{Epoch, GroupId, UserId};

const VERSION: u8 = 1;

/// `messages.kind` of a Welcome.
pub(super) const WELCOME: i16 = 3;

/// `messages.kind` of a `joined` item.
pub(super) const JOINED: i16 = 4;

/// How long a `welcome` or `joined` item waits for its device: as long as the log that it opens.
pub(super) const ITEM_LIFE: std::time::Duration = LOG_LIFE;

/// Writes the body of a `membership` entry (see [`crate::domain::EntryKind::Membership`]).
pub(super) fn membership(added: &[UserId], removed: &[UserId]) -> Bytes {
    let list = |users: &[UserId]| {
        let users: Vec<String> =
            users.iter().map(|user| format!("\"{}\"", user.uuid().hyphenated())).collect();
        users.join(",")
    };
    Bytes::from(format!("{{\"added\":[{}],\"removed\":[{}]}}", list(added), list(removed)))
}

/// Writes the body of a Welcome.
pub(super) fn encode_welcome(group: GroupId, epoch: Epoch, welcome: &[u8]) -> Vec<u8> {
    let mut bytes = encode_joined(group);
    bytes.extend(epoch.0.to_be_bytes());
    bytes.extend(welcome);
    bytes
}

/// Reads the body of a Welcome; none when these are not the bytes of one.
pub(super) fn decode_welcome(bytes: &[u8]) -> Option<(GroupId, Epoch, Bytes)> {
    let (joined, rest) = bytes.split_at_checked(17)?;
    let (epoch, welcome) = rest.split_at_checked(8)?;
    let epoch = Epoch(i64::from_be_bytes(epoch.try_into().ok()?));
    Some((decode_joined(joined)?, epoch, Bytes::copy_from_slice(welcome)))
}

/// Writes the body of a `joined` item.
pub(super) fn encode_joined(group: GroupId) -> Vec<u8> {
    let mut bytes = vec![VERSION];
    bytes.extend(group.uuid().as_bytes());
    bytes
}

/// Reads the body of a `joined` item; none when these are not the bytes of one.
pub(super) fn decode_joined(bytes: &[u8]) -> Option<GroupId> {
    let (&VERSION, group) = bytes.split_first()? else { return None };
    Uuid::from_slice(group).ok().map(GroupId::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_back_as_they_were_written() {
        let group = GroupId::new(Uuid::from_u128(7));
        let welcome = encode_welcome(group, Epoch(9), b"sealed");
        assert_eq!(decode_welcome(&welcome), Some((group, Epoch(9), Bytes::from_static(b"sealed"))));
        assert_eq!(decode_joined(&encode_joined(group)), Some(group));
    }

    #[test]
    fn a_membership_entry_names_users_in_json() {
        let [one, other] = [1, 2].map(|number| UserId::new(Uuid::from_u128(number)));
        let nobody = membership(&[], &[]);
        assert_eq!(&nobody[..], br#"{"added":[],"removed":[]}"#);
        let both = "00000000-0000-0000-0000-000000000001\",\"00000000-0000-0000-0000-000000000002";
        let expected = format!("{{\"added\":[\"{both}\"],\"removed\":[]}}");
        assert_eq!(membership(&[one, other], &[]), expected.as_bytes());
    }

    #[test]
    fn anything_else_is_refused() {
        let group = encode_joined(GroupId::new(Uuid::from_u128(7)));
        let mut other_version = group.clone();
        other_version[0] = 2;
        for bad in [&b""[..], &group[..16], &other_version, &[&group[..], b"x"].concat()] {
            assert!(decode_joined(bad).is_none() && decode_welcome(bad).is_none());
        }
    }
}
