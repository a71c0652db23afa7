//! Handing bundles and key packages out, and to whom without one-time keys: nobody may drain what others need.

use std::time::Duration;

use super::{Keys, LOW, Refusal};
use crate::{
    domain::{
        Caller, ConversationKey, DeviceId, DeviceNo, Drawn, Quota, SELDOM_ACTS_PER_HOUR, SecurityEvent,
        Timestamp, UserId,
    },
    hot::{Event, KeysLow},
    store::{OneTimeKeys, TakenBundle},
};

/// How long a user id is a newcomer.
const NEW: Duration = Duration::from_hours(24);

/// How often bundles come with one-time keys, and key packages are other than the last-resort one.
pub struct FetchRules {
    /// One caller's fetches of one user.
    pub pair: Quota,
    /// Half of all fetches of one user: the other half is kept for callers to whom the user has written.
    pub half: Quota,
    /// All fetches of one user by callers that are newcomers.
    pub newcomers: Quota,
    /// To find out to whom a user has written.
    pub conversations: ConversationKey,
}

/// Who fetches.
#[derive(Debug, Clone, Copy)]
pub struct Fetcher {
    /// The user.
    pub user_id: UserId,
    /// The calling device.
    pub device_no: DeviceNo,
    /// Since when the user id is claimed.
    pub user_since: Timestamp,
}

/// Keys of a device that were taken, as far as its owner should hear of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    /// The incarnation.
    pub(super) device: DeviceNo,
    /// Whether few of the kind are left.
    pub(super) is_low: bool,
    /// Whether a last-resort one was given.
    pub(super) last_resort_given: bool,
}

impl Taken {
    fn of(bundle: &TakenBundle) -> Self {
        Self {
            device: bundle.device_no,
            is_low: bundle.onetime_left < LOW,
            last_resort_given: bundle.last_resort_given,
        }
    }
}

impl Keys {
    /// Takes a bundle of one device, and tells its owner when keys run low or a limit was tripped.
    ///
    /// # Errors
    /// `UnknownDevice` when there is no such active device.
    pub async fn bundle(
        &self,
        fetcher: Option<Fetcher>,
        user: UserId,
        device: Option<&DeviceId>,
    ) -> Result<TakenBundle, Refusal> {
        // First, so that nothing is counted for devices that do not exist.
        let known = self.store.devices(user).await?;
        if !known.iter().any(|known| device.is_none_or(|device| *device == known.device_id)) {
            return Err(Refusal::UnknownDevice);
        }
        let onetime = self.allowance(fetcher, user).await?;
        let taken = self.store.take_bundle(user, device, onetime).await?.ok_or(Refusal::UnknownDevice)?;
        self.tell_owner(user, vec![Taken::of(&taken)], onetime).await?;
        Ok(taken)
    }

    /// Takes a bundle of every device of a user; of the fetcher's own user every other one.
    ///
    /// # Errors
    /// `UnknownDevice` when the user has no active device.
    pub async fn bundles(&self, fetcher: Option<Fetcher>, user: UserId) -> Result<Vec<TakenBundle>, Refusal> {
        let own = fetcher.filter(|fetcher| fetcher.user_id == user).map(|fetcher| fetcher.device_no);
        if self.store.devices(user).await?.is_empty() {
            return Err(Refusal::UnknownDevice);
        }
        let onetime = self.allowance(fetcher, user).await?;
        let taken = self.store.take_bundles(user, own, onetime).await?.ok_or(Refusal::UnknownDevice)?;
        self.tell_owner(user, taken.iter().map(Taken::of).collect(), onetime).await?;
        Ok(taken)
    }

    /// Whether this fetch gets one-time keys. A user's own devices always do.
    pub(super) async fn allowance(
        &self,
        fetcher: Option<Fetcher>,
        target: UserId,
    ) -> Result<OneTimeKeys, Refusal> {
        if fetcher.is_some_and(|fetcher| fetcher.user_id == target) {
            return Ok(OneTimeKeys::Given);
        }
        let now = self.clock.now();
        if let Some(fetcher) = fetcher
            && !self.draw("fetch pair", &[fetcher.user_id, target], self.fetch.pair, now).await
        {
            return Ok(OneTimeKeys::Withheld);
        }
        let is_new = fetcher.is_some_and(|fetcher| now.since(fetcher.user_since) < NEW);
        let shared = (!is_new || self.draw("fetch newcomers", &[target], self.fetch.newcomers, now).await)
            && self.draw("fetch anyone", &[target], self.fetch.half, now).await;
        if shared || self.kept_for(fetcher, target, now).await? {
            return Ok(OneTimeKeys::Given);
        }
        Ok(OneTimeKeys::Withheld)
    }

    /// Whether the fetcher has a place in what is kept for callers to whom the target has written.
    async fn kept_for(
        &self,
        fetcher: Option<Fetcher>,
        target: UserId,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        // In open mode callers cannot be told apart, and all of them are trusted.
        let known = match fetcher {
            Some(fetcher) => {
                let conversation = self.fetch.conversations.of(target, fetcher.user_id);
                self.store.has_written(conversation, target).await?
            }
            None => true,
        };
        Ok(known && self.draw("fetch known", &[target], self.fetch.half, now).await)
    }

    /// Tells the devices that keys were taken from, where they run low or a limit was tripped.
    pub(super) async fn tell_owner(
        &self,
        owner: UserId,
        taken: Vec<Taken>,
        onetime: OneTimeKeys,
    ) -> Result<(), Refusal> {
        let limit_tripped = onetime == OneTimeKeys::Withheld;
        if limit_tripped {
            self.note_seldom(owner, SecurityEvent::LimitTripped).await?;
        }
        let worth_telling = |taken: &Taken| limit_tripped || taken.is_low || taken.last_resort_given;
        let taken: Vec<_> = taken.into_iter().filter(worth_telling).collect();
        // Whoever fetches too much must not be able to flood the owner's sockets instead.
        if limit_tripped
            && !taken.is_empty()
            && !self.draw("limit told", &[owner], Quota::per_minute(1), self.clock.now()).await
        {
            return Ok(());
        }
        for Taken { device, last_resort_given, .. } in taken {
            // None when the device was deactivated meanwhile.
            let Some(stats) = self.store.key_stats(device, self.clock.now()).await? else { continue };
            let low = KeysLow {
                onetime_prekeys: stats.unused_prekeys,
                kem_prekeys: stats.kem_prekeys,
                key_packages: stats.key_packages,
                last_resort_used: last_resort_given,
                limit_tripped,
            };
            self.switchboard.notify(device, Event::KeysLow(low)).await;
        }
        Ok(())
    }

    /// Enters an event that anybody can cause: at most once an hour for each user.
    pub(super) async fn note_seldom(&self, user: UserId, event: SecurityEvent) -> Result<(), Refusal> {
        let now = self.clock.now();
        let what = if event == SecurityEvent::LimitTripped { "note limit" } else { "note admission" };
        if self.draw(what, &[user], Quota::per_hour(1), now).await {
            self.store.note_event(user, event, now).await?;
        }
        Ok(())
    }

    async fn draw(&self, what: &'static str, of: &[UserId], quota: Quota, now: Timestamp) -> bool {
        let ids: Vec<_> = of.iter().map(|user| user.uuid()).collect();
        let parts: Vec<&[u8]> = ids.iter().map(|id| id.as_bytes().as_slice()).collect();
        self.budgets.draw(what, &parts, quota, now).await == Drawn::Taken
    }

    /// Counts an act that leaves traces for long, of which no device does many.
    ///
    /// # Errors
    /// `TooOften` past [`SELDOM_ACTS_PER_HOUR`].
    pub(super) async fn count(&self, what: &'static str, caller: &Caller) -> Result<(), Refusal> {
        let device = caller.device_no.0.to_be_bytes();
        let quota = Quota::per_hour(SELDOM_ACTS_PER_HOUR);
        match self.budgets.draw(what, &[&device], quota, self.clock.now()).await {
            Drawn::Taken => Ok(()),
            Drawn::Empty(wait) => Err(Refusal::TooOften(wait)),
        }
    }
}
