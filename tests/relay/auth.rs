//! How devices prove themselves (proto-docs/devices.md): every refusal by status and code, and that it changed nothing.

mod access;
mod admission;
mod at_once;
mod challenges;
mod host;
mod jwt;
mod links;
mod moves;
mod recovery;
mod refreshing;
mod signing_keys;
mod trail;
mod without_sessions;

use std::time::Duration;

/// The last second of a span.
const fn a_second_less_than(span: Duration) -> Duration {
    span.saturating_sub(Duration::from_secs(1))
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The text with another letter of base64url at this place. Its high bits differ: the low ones of a last letter carry
/// nothing.
fn bent(text: &str, place: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let number = LETTERS.iter().position(|letter| *letter == bytes[place]);
    bytes[place] = number.map_or(b'-', |number| LETTERS[(number + 16) % 64]);
    String::from_utf8(bytes).unwrap()
}
