//! What can be told of bytes that should be sealed.

/// A nonce of 12 bytes and a tag of 16: less cannot be a ciphertext.
pub const SEALED_MIN: usize = 28;

/// Whether bytes are text that a person could read: valid UTF-8 without control characters but tab and line ends.
/// No bytes at all say nothing and are not text.
#[must_use]
pub fn is_plaintext(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let is_printable = |letter: char| !letter.is_control() || matches!(letter, '\t' | '\r' | '\n');
    !text.is_empty() && text.chars().all(is_printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_text_is_plaintext_and_bytes_are_not() {
        for text in ["hello", "{\"text\":\"hi\"}", "größe\tund\r\n日本語 👋", " "] {
            assert!(is_plaintext(text.as_bytes()), "{text:?}");
        }
        for bytes in [&b""[..], b"a\0b", b"\x1b[1m", b"\x7f", "\u{85}".as_bytes(), &[0xff], &[b'a', 0xc3]] {
            assert!(!is_plaintext(bytes), "{bytes:?}");
        }
    }
}
