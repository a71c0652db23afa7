//! One door for fuzzers to everything that reads the bytes of strangers; proto-docs/fuzzing.md tells how it is used.
//!
//! No part of the relay: it is built for fuzzers (`cfg(fuzzing)`) and for the tests that replay their corpus. Each target takes
//! an input, holds what comes of it against what is promised, and says whether the input was taken.

#[cfg(all(fuzzing, not(debug_assertions)))]
compile_error!("cfg(fuzzing) lets every MLS signature pass: it is for fuzzers, never for a relay");

use crate::domain::{Caller, DeviceId, DeviceNo, DeviceNumber, Timestamp, UserId};
pub use crate::{
    auth::fuzzed::tokens,
    groups::{
        fuzzed::group_body,
        mls::fuzzed::{World, mls_message, mls_message_in},
    },
    hot::redis::fuzzed::events,
    http::fuzzed::forwarded,
    keys::fuzzed::{key_package, keys_body, register_body, signal_keys},
    messages::fuzzed::{send_body, signal_body},
    queue::fuzzed::{frames_json, frames_msgpack, socket},
};

/// What reads an input, and says whether it was taken.
pub type Target = fn(&[u8]) -> bool;

/// Every target, under the name of its program and of its corpus.
pub const TARGETS: [(&str, Target); 14] = [
    ("events", events),
    ("forwarded", forwarded),
    ("frames_json", frames_json),
    ("frames_msgpack", frames_msgpack),
    ("group_body", group_body),
    ("key_package", key_package),
    ("keys_body", keys_body),
    ("mls_message", mls_message),
    ("register_body", register_body),
    ("send_body", send_body),
    ("signal_body", signal_body),
    ("signal_keys", signal_keys),
    ("socket", socket),
    ("tokens", tokens),
];

/// The time at which inputs are read, so that a corpus stays what it is.
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// The device of this number, of the user of this number.
pub(crate) fn caller(number: u8, name: &str) -> Caller {
    let (Ok(device_id), Ok(device_number)) = (DeviceId::parse(name), DeviceNumber::new(1)) else {
        unreachable!("{name} names a device")
    };
    Caller { user_id: user(number), device_id, device_number, device_no: DeviceNo(number.into()) }
}

/// The user of this number.
pub(crate) fn user(number: u8) -> UserId {
    UserId::new(uuid::Uuid::from_u128(number.into()))
}

#[cfg(test)]
mod tests;
