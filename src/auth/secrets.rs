//! Secrets that are given out once and stored as a hash only.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use uuid::Uuid;

use crate::domain::SessionId;

/// A fresh secret, such as a link token: 32 random bytes as text, and the hash that is stored of it.
///
/// # Errors
/// When the operating system gives no randomness.
pub fn fresh_secret() -> Result<(String, [u8; 32]), getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let text = URL_SAFE_NO_PAD.encode(bytes);
    let hash = secret_hash(&text);
    Ok((text, hash))
}

/// What is stored of a secret that was given out.
#[must_use]
pub fn secret_hash(text: &str) -> [u8; 32] {
    *blake3::hash(text.as_bytes()).as_bytes()
}

/// A fresh session id.
#[must_use]
pub fn fresh_session_id() -> SessionId {
    SessionId::new(Uuid::new_v4())
}

/// The bytes that a text in unpadded base64url stands for, when it stands for that many and is the one text that does.
pub(super) fn canonical<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != (N * 8).div_ceil(6) {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}
