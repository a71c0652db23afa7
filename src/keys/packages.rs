//! MLS signature keys and key packages: kept, handed out once, and to whom only as a last resort.

use super::{Fetcher, Keys, LOW, MlsRefusal, RawMlsKey, RawPackages, Refusal, blocking, check, fetch::Taken};
use crate::{
    domain::{Caller, CipherSuite, UserId},
    store::{ClaimedPackage, MlsKeySet, PackagesPublished},
};

/// Key packages that were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackagesKept {
    /// How many were new.
    pub accepted: u32,
    /// How many were known.
    pub already_known: u32,
    /// One-time packages now stored that have not ended.
    pub count: u32,
    /// Whether there is a last-resort package.
    pub has_last_resort: bool,
}

impl Keys {
    /// Gives the calling device its MLS signature key of a scheme. Returns how many packages of the former key were dropped.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn set_mls_key(&self, caller: &Caller, raw: RawMlsKey) -> Result<u32, Refusal> {
        let lasting = self.store.lasting_keys(caller.device_no).await?.ok_or(Refusal::UnknownDevice)?;
        let owner = caller.clone();
        let checked =
            move || check::mls_key(&lasting.identity_key, (owner.user_id, &owner.device_id), "", &raw);
        let key = blocking(checked).await?;
        self.count("mls rotations", caller).await?;
        match self.store.set_mls_key(caller.device_no, key, self.clock.now()).await? {
            MlsKeySet::Set(dropped) => Ok(dropped),
            MlsKeySet::Reused => Err(MlsRefusal::MlsKeyReused("public_key".into()).into()),
            MlsKeySet::Gone => Err(Refusal::UnknownDevice),
        }
    }

    /// Adds key packages to the calling device.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn publish_packages(&self, caller: &Caller, raw: RawPackages) -> Result<PackagesKept, Refusal> {
        let most = self.limits.max_prekeys;
        if raw.key_packages.len() > most as usize {
            return Err(MlsRefusal::TooManyPackages(most).into());
        }
        self.count("package uploads", caller).await?;
        let (rules, owner, now) = (self.packages.clone(), caller.clone(), self.clock.now());
        let last_resort_field = raw.last_resort_field;
        let checked = move || check::packages(&rules, (owner.user_id, &owner.device_id), &raw, now);
        let upload = blocking(checked).await?;
        let field = |place| RawPackages::field(last_resort_field, place);
        match self.store.publish_packages(caller.device_no, upload, now).await? {
            PackagesPublished::Published { accepted, already_known, count, has_last_resort } => {
                Ok(PackagesKept { accepted, already_known, count, has_last_resort })
            }
            PackagesPublished::SignatureKeyUnknown(place) => {
                Err(MlsRefusal::UnknownSignatureKey(field(place)).into())
            }
            PackagesPublished::Reused(place) => Err(MlsRefusal::PackageReused(field(place)).into()),
            PackagesPublished::TooMany => Err(MlsRefusal::TooManyPackages(most).into()),
            PackagesPublished::Gone => Err(Refusal::UnknownDevice),
        }
    }

    /// Takes a package of every active device of a user, of the fetcher's own user every other one, and tells the owner
    /// when few are left, the last-resort one was given, or a limit was tripped.
    ///
    /// # Errors
    /// `UnknownDevice` when the user has no active device, `NoPackage` when none of them has one to give.
    pub async fn claim_packages(
        &self,
        fetcher: Option<Fetcher>,
        user: UserId,
        suite: CipherSuite,
    ) -> Result<Vec<ClaimedPackage>, Refusal> {
        let own = fetcher.filter(|fetcher| fetcher.user_id == user).map(|fetcher| fetcher.device_no);
        // First, so that nothing is counted for users that do not exist.
        if self.store.devices(user).await?.is_empty() {
            return Err(Refusal::UnknownDevice);
        }
        let onetime = self.allowance(fetcher, user).await?;
        let claimed = self.store.claim_packages(user, suite, own, onetime, self.clock.now()).await?;
        let taken = claimed.iter().map(|claimed| Taken {
            device: claimed.owner.device_no,
            is_low: claimed.left < LOW,
            last_resort_given: claimed.is_last_resort,
        });
        self.tell_owner(user, taken.collect(), onetime).await?;
        if claimed.is_empty() { Err(MlsRefusal::NoPackage.into()) } else { Ok(claimed) }
    }
}
