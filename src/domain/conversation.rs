//! The conversation that every pair of users has.

use uuid::Builder;

use super::{ConversationId, UserId};

/// Derives the id of a pair's own conversation: the same for both, on every node, and telling nobody else who they are.
pub struct ConversationKey([u8; 32]);

impl ConversationKey {
    /// A key for the derivation.
    #[must_use]
    pub const fn new(key: [u8; 32]) -> Self {
        Self(key)
    }

    /// The conversation of two users, or of one with itself.
    #[must_use]
    pub fn of(&self, one: UserId, other: UserId) -> ConversationId {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(one.min(other).uuid().as_bytes());
        hasher.update(one.max(other).uuid().as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        ConversationId::new(Builder::from_custom_bytes(bytes).into_uuid())
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_pair_has_one_conversation_whichever_way_it_is_asked_for() {
        let key = ConversationKey::new([1; 32]);
        let (a, b) = (UserId::new(Uuid::from_u128(1)), UserId::new(Uuid::from_u128(2)));
        assert_eq!(key.of(a, b), key.of(b, a));
        assert_ne!(key.of(a, b), key.of(a, a));
        assert_ne!(key.of(a, b), ConversationKey::new([2; 32]).of(a, b));
        assert_eq!(key.of(a, b).uuid().get_version_num(), 8);
    }
}
