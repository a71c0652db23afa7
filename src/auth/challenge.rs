//! Login challenges: nothing is stored of them until one is answered, and they look alike for devices that do not
//! exist.

use std::{fmt, time::Duration};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use subtle::ConstantTimeEq;

use super::secrets::canonical;
use crate::{
    domain::{DeviceId, Timestamp, UserId},
    store::SingleUse,
};

/// How long a challenge may be answered.
const LIFE: Duration = Duration::from_mins(1);

/// The bytes of a challenge: when it ends, a nonce, the MAC.
const LENGTH: usize = 8 + 16 + 32;

/// Makes and recognises challenges.
pub struct Challenges {
    key: [u8; 32],
    relay_name: String,
}

impl Challenges {
    /// Challenges of the relay of this name, under a key that all its nodes have.
    #[must_use]
    pub fn new(key: [u8; 32], relay_name: &str) -> Self {
        Self { key, relay_name: relay_name.to_owned() }
    }

    /// A challenge for a device, whether or not there is such a device, and when it ends.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn issue(
        &self,
        user: UserId,
        device: &DeviceId,
        now: Timestamp,
    ) -> Result<(String, Timestamp), getrandom::Error> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        let expires_at = now.plus(LIFE);
        let end = expires_at.millis().to_be_bytes();
        let mac = self.mac(user, device, end, nonce);
        Ok((URL_SAFE_NO_PAD.encode([&end[..], &nonce, mac.as_bytes()].concat()), expires_at))
    }

    /// What must be used up for an answer to this challenge to count. None when it was not made for this device by this
    /// relay, or has ended.
    #[must_use]
    pub fn check(&self, text: &str, user: UserId, device: &DeviceId, now: Timestamp) -> Option<SingleUse> {
        let bytes: [u8; LENGTH] = canonical(text)?;
        let (end, rest) = bytes.split_first_chunk::<8>()?;
        let (nonce, mac) = rest.split_first_chunk::<16>()?;
        let expected = self.mac(user, device, *end, *nonce);
        let expires_at = Timestamp::from_millis(i64::from_be_bytes(*end));
        if !bool::from(expected.as_bytes()[..].ct_eq(mac)) || now >= expires_at {
            return None;
        }
        Some(SingleUse { hash: blake3::derive_key("restante v1 login challenge", &bytes), expires_at })
    }

    fn mac(&self, user: UserId, device: &DeviceId, end: [u8; 8], nonce: [u8; 16]) -> blake3::Hash {
        let mut mac = blake3::Hasher::new_keyed(&self.key);
        let user = user.uuid();
        let parts = [
            &b"restante-challenge-v1"[..],
            self.relay_name.as_bytes(),
            user.as_bytes(),
            device.as_str().as_bytes(),
            &end,
            &nonce,
        ];
        for part in parts {
            mac.update(&(part.len() as u64).to_be_bytes()).update(part);
        }
        mac.finalize()
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Challenges(..)")
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_123);

    fn user(number: u128) -> UserId {
        UserId::new(Uuid::from_u128(number))
    }

    fn device(name: &str) -> DeviceId {
        DeviceId::parse(name).unwrap()
    }

    fn challenges() -> Challenges {
        Challenges::new([1; 32], "relay")
    }

    #[test]
    fn a_challenge_counts_for_its_device_for_a_minute() {
        let (text, expires_at) = challenges().issue(user(7), &device("phone"), NOW).unwrap();
        assert_eq!(expires_at, NOW.plus(Duration::from_mins(1)));
        let last = expires_at.minus(Duration::from_millis(1));
        let first_use = challenges().check(&text, user(7), &device("phone"), NOW).unwrap();
        let last_use = challenges().check(&text, user(7), &device("phone"), last).unwrap();
        assert_eq!(first_use.hash, last_use.hash);
        assert_eq!(first_use.expires_at, expires_at);
        assert!(challenges().check(&text, user(7), &device("phone"), expires_at).is_none());
    }

    #[test]
    fn two_challenges_of_one_moment_are_used_up_apart() {
        let uses = [0; 2].map(|_| {
            let (text, _) = challenges().issue(user(7), &device("phone"), NOW).unwrap();
            challenges().check(&text, user(7), &device("phone"), NOW).unwrap().hash
        });
        assert_ne!(uses[0], uses[1]);
    }

    #[test]
    fn a_challenge_is_worth_nothing_to_another_device_user_relay_or_key() {
        let (text, _) = challenges().issue(user(7), &device("phone"), NOW).unwrap();
        let renamed = Challenges::new([1; 32], "relay2");
        let rekeyed = Challenges::new([2; 32], "relay");
        for (case, challenges, user, device) in [
            ("device", &challenges(), user(7), device("phone2")),
            ("device's case", &challenges(), user(7), device("Phone")),
            ("user", &challenges(), user(8), device("phone")),
            ("relay", &renamed, user(7), device("phone")),
            ("key", &rekeyed, user(7), device("phone")),
        ] {
            assert!(challenges.check(&text, user, &device, NOW).is_none(), "other {case}");
        }
    }

    #[test]
    fn a_challenge_with_any_bit_flipped_is_worth_nothing() {
        let (text, _) = challenges().issue(user(7), &device("phone"), NOW).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for bit in 0..LENGTH * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let flipped = URL_SAFE_NO_PAD.encode(flipped);
            assert!(challenges().check(&flipped, user(7), &device("phone"), NOW).is_none(), "bit {bit}");
        }
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let Ok(flipped) = String::from_utf8(flipped) else { continue };
            assert!(challenges().check(&flipped, user(7), &device("phone"), NOW).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_no_challenge_is_worth_nothing() {
        let (text, _) = challenges().issue(user(7), &device("phone"), NOW).unwrap();
        let shorter = URL_SAFE_NO_PAD.encode([0xff; LENGTH - 1]);
        let longer = URL_SAFE_NO_PAD.encode([0xff; LENGTH + 1]);
        for bad in
            [String::new(), "word".into(), shorter, longer, format!("{text}="), text.to_lowercase() + " "]
        {
            assert!(challenges().check(&bad, user(7), &device("phone"), NOW).is_none());
        }
    }
}
