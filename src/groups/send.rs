//! From a parsed request to a group message that the store can accept: kind, size, guard, expiry, digest.

use std::time::Duration;

use bytes::Bytes;

use super::{GroupRules, Refusal, mls::Header};
use crate::domain::{
    Caller, Epoch, GroupId, GroupSend, MessageId, MessageType, SEALED_MIN, Timestamp, is_plaintext,
};

/// The longest a body may be asked to wait.
const LONGEST: Duration = crate::store::LOG_LIFE;

/// A group message as it came, its ids and names parsed.
#[derive(Debug)]
pub struct GroupSendRequest {
    /// The group.
    pub group_id: GroupId,
    /// The hint.
    pub message_type: MessageType,
    /// The client's id of the message.
    pub message_id: Option<MessageId>,
    /// After how many seconds it is to be erased.
    pub expires_in_seconds: Option<u64>,
    /// The sealed body.
    pub ciphertext: Bytes,
}

/// Checks a request and makes it a send. Whether the group takes such a body is the store's to say, because that tells
/// whether there is a group.
pub(super) fn prepare(
    sender: Caller,
    request: GroupSendRequest,
    rules: &GroupRules,
    now: Timestamp,
) -> Result<GroupSend, Refusal> {
    let body = request.ciphertext;
    if body.len() > rules.envelope {
        return Err(Refusal::TooLarge("ciphertext", rules.envelope));
    }
    if rules.plaintext_guard && is_plaintext(&body) {
        return Err(Refusal::NotCiphertext("ciphertext"));
    }
    if body.len() < SEALED_MIN {
        return Err(Refusal::TooShort("ciphertext"));
    }
    let life = request.expires_in_seconds.map(life).transpose()?;
    Ok(GroupSend {
        message_id: request.message_id.unwrap_or_else(|| MessageId::fresh(now)),
        digest: digest(request.group_id, request.message_type, life, &body),
        epoch: epoch(request.group_id, &body),
        message_type: request.message_type,
        expires_at: life.map(|life| now.plus(life)),
        group_id: request.group_id,
        sender,
        body,
    })
}

/// Why a group of the other kind does not take this body.
pub(super) const fn wrong_kind(send: &GroupSend) -> Refusal {
    Refusal::NotMls(
        "ciphertext",
        match send.epoch {
            Some(_) => "a roster group takes sealed bytes, not messages of an MLS group",
            None => "an MLS group takes a PrivateMessage with application content of this group here",
        },
    )
}

/// The epoch of an application message of this group. Whatever else the body is, it is opaque.
fn epoch(group: GroupId, body: &[u8]) -> Option<Epoch> {
    match Header::parse_application(body) {
        Ok(framing) if framing.group_id == group => Some(framing.epoch),
        Ok(_) | Err(_) => None,
    }
}

fn life(seconds: u64) -> Result<Duration, Refusal> {
    if (1..=LONGEST.as_secs()).contains(&seconds) {
        Ok(Duration::from_secs(seconds))
    } else {
        Err(Refusal::BadExpiry)
    }
}

/// Everything the client decided, but for the id and the sender, in one unambiguous row: all but the body has a fixed
/// length.
fn digest(group: GroupId, message_type: MessageType, life: Option<Duration>, body: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(group.uuid().as_bytes());
    hasher.update(&[message_type as u8]);
    hasher.update(&life.map_or(0, |life| life.as_secs()).to_be_bytes());
    hasher.update(body);
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::{DeviceId, DeviceNo, DeviceNumber, Epoch, UserId};

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);
    const GROUP: GroupId = GroupId::new(Uuid::from_u128(7));

    fn prepared(request: GroupSendRequest) -> Result<GroupSend, Refusal> {
        let caller = Caller {
            user_id: UserId::new(Uuid::from_u128(1)),
            device_id: DeviceId::parse("phone").unwrap(),
            device_number: DeviceNumber::new(1).unwrap(),
            device_no: DeviceNo(1),
        };
        let rules = GroupRules {
            envelope: 1000,
            plaintext_guard: true,
            max_members: 10,
            max_groups: 10,
            invite_life: Duration::from_hours(1),
            cipher_suites: Vec::new(),
            longest_lifetime: Duration::from_hours(1),
        };
        prepare(caller, request, &rules, NOW)
    }

    fn request(ciphertext: Vec<u8>) -> GroupSendRequest {
        GroupSendRequest {
            group_id: GROUP,
            message_type: MessageType::Opaque,
            message_id: None,
            expires_in_seconds: None,
            ciphertext: ciphertext.into(),
        }
    }

    /// A `PrivateMessage` (RFC 9420 §6.3) of this content type, with nothing sealed in it.
    fn private(group: u128, epoch: u64, content_type: u8) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 2, 16];
        bytes.extend(Uuid::from_u128(group).as_bytes());
        bytes.extend(epoch.to_be_bytes());
        bytes.extend([content_type, 0, 4, 1, 2, 3, 4, 8]);
        bytes.extend([0x80; 8]);
        bytes
    }

    #[test]
    fn text_short_and_large_bodies_are_refused() {
        assert!(matches!(prepared(request(vec![b'a'; 64])), Err(Refusal::NotCiphertext("ciphertext"))));
        assert!(matches!(prepared(request(vec![0x80; 27])), Err(Refusal::TooShort("ciphertext"))));
        assert!(matches!(prepared(request(vec![0x80; 1001])), Err(Refusal::TooLarge(_, 1000))));
        assert!(prepared(request(vec![0x80; 28])).is_ok() && prepared(request(vec![0x80; 1000])).is_ok());
    }

    #[test]
    fn only_an_application_message_of_the_group_names_an_epoch() {
        let epoch = |bytes| prepared(request(bytes)).unwrap().epoch;
        assert_eq!(epoch(private(7, 5, 1)), Some(Epoch(5)));
        assert_eq!(epoch(private(8, 5, 1)), None, "of another group");
        assert_eq!(epoch(private(7, 5, 2)), None, "a proposal");
        assert_eq!(epoch(private(7, 5, 3)), None, "a commit");
        assert_eq!(epoch(private(7, u64::MAX, 1)), None, "beyond every group");
        assert_eq!(epoch([&private(7, 5, 1)[..], &[0]].concat()), None, "something follows");
        assert_eq!(epoch(vec![0x80; 40]), None);
    }

    #[test]
    fn expiry_lies_between_a_second_and_thirty_days() {
        let life = |seconds| {
            prepared(GroupSendRequest { expires_in_seconds: Some(seconds), ..request(vec![0x80; 30]) })
        };
        assert!(life(0).is_err() && life(2_592_001).is_err());
        assert_eq!(life(5).unwrap().expires_at, Some(NOW.plus(Duration::from_secs(5))));
        assert_eq!(prepared(request(vec![0x80; 30])).unwrap().expires_at, None);
    }

    #[test]
    fn the_digest_covers_everything_the_client_decides() {
        let base = || request(vec![0x80; 30]);
        let digest = |request| prepared(request).unwrap().digest;
        let id = Some(MessageId::new(Uuid::from_u128(5)));
        assert_eq!(
            digest(base()),
            digest(GroupSendRequest { message_id: id, ..base() }),
            "the id is compared apart"
        );
        let others = [
            GroupSendRequest { group_id: GroupId::new(Uuid::from_u128(8)), ..base() },
            GroupSendRequest { message_type: MessageType::Text, ..base() },
            GroupSendRequest { expires_in_seconds: Some(9), ..base() },
            request(vec![0x81; 30]),
        ];
        for other in others {
            assert_ne!(digest(base()), digest(other));
        }
    }
}
