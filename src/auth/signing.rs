//! The keys that sign access tokens and tickets: the first signs, all of them verify, so that keys are replaced
//! without logging anyone out.

use std::{fmt, iter};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ed25519_dalek::SigningKey;
use jsonwebtoken::{DecodingKey, EncodingKey};

/// Keys that may be configured at once.
const MOST: usize = 8;

/// Why a text holds no signing keys. The words never quote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSigningKeys {
    /// There is no key at all.
    #[error("there is no key in it")]
    None,
    /// A part is not a seed.
    #[error("key number {0} is not 32 bytes in padded base64")]
    NotASeed(usize),
    /// A key occurs twice.
    #[error("key number {0} is there twice")]
    Duplicate(usize),
    /// There are more than anybody needs.
    #[error("there are more than 8 keys in it")]
    TooMany,
}

/// The Ed25519 keys of a relay: one that signs, and others that only verify.
pub struct SigningKeys {
    signing: SigningKey,
    others: Vec<SigningKey>,
}

impl SigningKeys {
    /// Reads seeds: 32 bytes in padded base64 each, separated by commas or white space. A `#` begins a comment that ends
    /// with its line.
    ///
    /// # Errors
    /// The first thing that is wrong, without a word of the text.
    pub fn parse(text: &str) -> Result<Self, InvalidSigningKeys> {
        let uncommented = text.lines().map(|line| line.split_once('#').map_or(line, |(before, _)| before));
        let parts = uncommented.flat_map(|line| line.split(|c: char| c == ',' || c.is_whitespace()));
        let mut seeds: Vec<SigningKey> = Vec::new();
        for part in parts.filter(|part| !part.is_empty()) {
            let number = seeds.len() + 1;
            if number > MOST {
                return Err(InvalidSigningKeys::TooMany);
            }
            let bytes = STANDARD.decode(part).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            let seed = SigningKey::from_bytes(&bytes.ok_or(InvalidSigningKeys::NotASeed(number))?);
            if seeds.contains(&seed) {
                return Err(InvalidSigningKeys::Duplicate(number));
            }
            seeds.push(seed);
        }
        let mut seeds = seeds.into_iter();
        let signing = seeds.next().ok_or(InvalidSigningKeys::None)?;
        Ok(Self { signing, others: seeds.collect() })
    }

    /// What signs, by its name.
    pub(super) fn signing(&self) -> (String, EncodingKey) {
        (key_id(&self.signing), EncodingKey::from_ed_der(self.signing.as_bytes()))
    }

    /// What verifies, by its name.
    pub(super) fn verifying(&self) -> Vec<(String, DecodingKey)> {
        let public = |seed: &SigningKey| DecodingKey::from_ed_der(seed.verifying_key().as_bytes());
        iter::once(&self.signing).chain(&self.others).map(|seed| (key_id(seed), public(seed))).collect()
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKeys({})", 1 + self.others.len())
    }
}

pub(super) fn key_id(seed: &SigningKey) -> String {
    blake3::hash(seed.verifying_key().as_bytes()).to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seed(number: u8) -> String {
        STANDARD.encode([number; 32])
    }

    #[test]
    fn keys_are_separated_by_commas_spaces_and_lines_with_comments() {
        let text = format!("# first\n{}, {}\r\n\n{} # the oldest, #1\n,", seed(1), seed(2), seed(3));
        let keys = SigningKeys::parse(&text).unwrap();
        let names: Vec<_> = keys.verifying().into_iter().map(|(name, _)| name).collect();
        let expected = [1, 2, 3].map(|number| key_id(&SigningKey::from_bytes(&[number; 32])));
        assert_eq!(names, expected);
        assert_eq!(keys.signing().0, expected[0]);
    }

    #[test]
    fn what_is_no_list_of_keys_is_refused_without_being_quoted() {
        let nine = (1..=9).map(seed).collect::<Vec<_>>().join(",");
        let unpadded = seed(1).trim_end_matches('=').to_owned();
        let longer = STANDARD.encode([1; 33]);
        for (text, expected) in [
            (String::new(), InvalidSigningKeys::None),
            (" ,\n# only a comment".to_owned(), InvalidSigningKeys::None),
            (unpadded, InvalidSigningKeys::NotASeed(1)),
            (longer, InvalidSigningKeys::NotASeed(1)),
            (format!("{} word", seed(1)), InvalidSigningKeys::NotASeed(2)),
            (format!("{},{},{}", seed(1), seed(2), seed(1)), InvalidSigningKeys::Duplicate(3)),
            (nine, InvalidSigningKeys::TooMany),
        ] {
            let refused = SigningKeys::parse(&text).unwrap_err();
            assert_eq!(refused, expected);
            assert!(!refused.to_string().contains("word") && !refused.to_string().contains(&seed(1)));
        }
    }

    #[test]
    fn debug_output_shows_no_key() {
        let keys = SigningKeys::parse(&format!("{} {}", seed(1), seed(2))).unwrap();
        assert_eq!(format!("{keys:?}"), "SigningKeys(2)");
    }
}
