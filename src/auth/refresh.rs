//! Refresh tokens: a session's id, a secret and a tag that only this relay can make. Each grows its successor, so that
//! a repeated refresh gets the same answer though only hashes are stored.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::secrets::canonical;
use crate::domain::SessionId;

/// The bytes of a token: session id, secret, tag.
const LENGTH: usize = 16 + 32 + 16;

/// Makes, reads and renews refresh tokens.
pub struct RefreshTokens {
    tag_key: [u8; 32],
    successor_key: [u8; 32],
}

impl RefreshTokens {
    /// Refresh tokens under this key, which every node of a relay must have.
    #[must_use]
    pub fn new(key: [u8; 32]) -> Self {
        Self { tag_key: key, successor_key: blake3::derive_key("restante v1 refresh token successor", &key) }
    }

    /// The first token of a session.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn first(&self, session: SessionId) -> Result<RefreshToken, getrandom::Error> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)?;
        Ok(self.tagged(session, secret))
    }

    /// The token that this text is, when this relay made it. Whether it is still worth something the store knows.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<RefreshToken> {
        // Strict: there is one text for a token, so that there is one hash.
        let bytes: [u8; LENGTH] = canonical(text)?;
        let (session, rest) = bytes.split_first_chunk::<16>()?;
        let (secret, tag) = rest.split_first_chunk::<32>()?;
        let token = self.tagged(SessionId::new(Uuid::from_bytes(*session)), *secret);
        bool::from(token.tag.ct_eq(tag)).then_some(token)
    }

    fn tagged(&self, session: SessionId, secret: [u8; 32]) -> RefreshToken {
        let tag = keyed(&self.tag_key, session, &secret);
        RefreshToken { session, secret, tag }
    }
}

impl fmt::Debug for RefreshTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshTokens(..)")
    }
}

/// A refresh token that this relay made.
pub struct RefreshToken {
    session: SessionId,
    secret: [u8; 32],
    tag: [u8; 16],
}

impl RefreshToken {
    /// The session that it continues.
    #[must_use]
    pub const fn session(&self) -> SessionId {
        self.session
    }

    /// The token as its device gets it.
    #[must_use]
    pub fn text(&self) -> String {
        URL_SAFE_NO_PAD.encode([&self.session.uuid().into_bytes()[..], &self.secret, &self.tag].concat())
    }

    /// What is stored of it: BLAKE3 of its text.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(self.text().as_bytes()).as_bytes()
    }

    /// The token that takes its place: always the same one.
    #[must_use]
    pub fn successor(&self, tokens: &RefreshTokens) -> Self {
        tokens.tagged(self.session, keyed(&tokens.successor_key, self.session, &self.secret))
    }
}

impl fmt::Debug for RefreshToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RefreshToken(..)")
    }
}

fn keyed<const N: usize>(key: &[u8; 32], session: SessionId, secret: &[u8; 32]) -> [u8; N] {
    let mut hash = blake3::Hasher::new_keyed(key);
    hash.update(session.uuid().as_bytes()).update(secret);
    let mut first = [0; N];
    hash.finalize_xof().fill(&mut first);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> SessionId {
        SessionId::new(Uuid::from_u128(0x0123_4567_89ab_cdef))
    }

    #[test]
    fn a_token_comes_back_from_its_text_with_the_hash_of_that_text() {
        let tokens = RefreshTokens::new([1; 32]);
        let token = tokens.first(session()).unwrap();
        let read = tokens.read(&token.text()).unwrap();
        assert_eq!(read.session(), session());
        assert_eq!(read.text(), token.text());
        assert_eq!(read.hash(), *blake3::hash(token.text().as_bytes()).as_bytes());
        assert_ne!(tokens.first(session()).unwrap().text(), token.text());
    }

    #[test]
    fn a_repeated_refresh_gets_the_same_successor_on_every_node() {
        let (here, there) = (RefreshTokens::new([1; 32]), RefreshTokens::new([1; 32]));
        let token = here.first(session()).unwrap();
        let next = token.successor(&here);
        assert_eq!(next.text(), there.read(&token.text()).unwrap().successor(&there).text());
        assert_eq!(there.read(&next.text()).unwrap().session(), session());
        let mut seen = std::collections::HashSet::from([token.text()]);
        let mut newest = next;
        for _ in 0..100 {
            assert!(seen.insert(newest.text()), "a chain of successors never comes back");
            newest = newest.successor(&here);
        }
    }

    #[test]
    fn a_token_with_any_bit_flipped_is_none() {
        let tokens = RefreshTokens::new([1; 32]);
        let text = tokens.first(session()).unwrap().text();
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for bit in 0..LENGTH * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(tokens.read(&URL_SAFE_NO_PAD.encode(flipped)).is_none(), "bit {bit}");
        }
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let read = String::from_utf8(flipped).ok().and_then(|flipped| tokens.read(&flipped));
            assert!(read.is_none(), "bit {bit} of the text");
        }
    }

    #[test]
    fn what_is_no_token_of_this_relay_is_none() {
        let tokens = RefreshTokens::new([1; 32]);
        let text = tokens.first(session()).unwrap().text();
        let other = RefreshTokens::new([2; 32]).first(session()).unwrap().text();
        let shorter = URL_SAFE_NO_PAD.encode([0; LENGTH - 1]);
        let longer = URL_SAFE_NO_PAD.encode([0; LENGTH + 1]);
        for bad in [
            String::new(),
            "word".to_owned(),
            other,
            shorter,
            longer,
            URL_SAFE_NO_PAD.encode([0; LENGTH]),
            format!("{text}=="),
            format!("{text} "),
            format!("\n{text}"),
            format!("{text}{text}"),
        ] {
            assert!(tokens.read(&bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn debug_output_hides_token_and_keys() {
        let tokens = RefreshTokens::new([1; 32]);
        assert_eq!(
            format!("{tokens:?} {:?}", tokens.first(session())),
            "RefreshTokens(..) Ok(RefreshToken(..))"
        );
    }
}
