//! Public keys of devices: publish, take, rotate, count; and devices coming and going.

mod body;
mod check;
mod fetch;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzed;
pub mod mls;
mod packages;
mod problem;
mod refusal;
mod register;
pub mod routes;
pub mod signal;

use std::{sync::Arc, time::Duration};

use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;

pub use check::{RawMlsKey, RawPackages, RawPreKey, RawSignedPreKey};
pub use fetch::{FetchRules, Fetcher};
pub use mls::PackageRules;
pub use packages::PackagesKept;
pub use refusal::{MlsRefusal, Refusal};
pub use register::{Admission, RegistrationRequest, RegistrationRules};

use crate::{
    domain::{
        Caller, Clock, Device, DeviceId, DeviceNo, IdentityKey, KeyId, KeyKind, KeyStats, LinkedBy,
        Signature, Timestamp, UserId,
    },
    hot::{Budgets, Event, Switchboard},
    store::{Deactivated, KeyUpload, Limits, LinkOffer, Published, Store, StoreError},
};

/// One-time pre-keys below which a device should bring more.
pub const LOW: u32 = 20;

/// One-time pre-keys a device must bring when it registers.
pub const LEAST_PREKEYS: usize = 50;

/// Age at which a signed pre-key should be rotated.
pub const ROTATION_AGE: Duration = Duration::from_hours(7 * 24);

/// How long a link token lives.
const LINK_LIFE: Duration = Duration::from_mins(10);

/// More keys for a device, as they came.
#[derive(Debug, Default)]
pub struct UploadRequest {
    /// A new signed pre-key.
    pub signed_prekey: Option<RawSignedPreKey>,
    /// One-time pre-keys.
    pub onetime_prekeys: Vec<RawPreKey>,
    /// One-time KEM pre-keys.
    pub kem_prekeys: Vec<RawSignedPreKey>,
    /// A new last-resort KEM pre-key.
    pub last_resort_kem_prekey: Option<RawSignedPreKey>,
}

/// Keys that were added.
#[derive(Debug, Clone, Copy)]
pub struct Uploaded {
    /// How many were new.
    pub accepted: u32,
    /// How many were known.
    pub already_known: u32,
    /// One-time pre-keys now stored.
    pub onetime_count: u32,
    /// One-time KEM pre-keys now stored.
    pub kem_count: u32,
    /// When.
    pub at: Timestamp,
}

/// The acts on keys and devices.
pub struct Keys {
    /// The store.
    pub store: Arc<dyn Store>,
    /// To tell owners that keys run low, and sessions that they end.
    pub switchboard: Arc<Switchboard>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What registrations are held against.
    pub registration: RegistrationRules,
    /// How often keys are handed out.
    pub fetch: FetchRules,
    /// What key packages are held against.
    pub packages: PackageRules,
    /// Where that, and what leaves traces for long, is counted.
    pub budgets: Arc<Budgets>,
    /// The limits.
    pub limits: Limits,
}

impl Keys {
    /// Keeps the word of an existing device for a newcomer and returns when the token ends.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn link(
        &self,
        caller: &Caller,
        device_id: DeviceId,
        identity_key: &[u8],
        signature: &[u8],
        token_hash: [u8; 32],
    ) -> Result<Timestamp, Refusal> {
        let identity = check::identity(identity_key)?;
        let own =
            self.store.lasting_keys(caller.device_no).await?.ok_or(Refusal::UnknownDevice)?.identity_key;
        let bad = || Refusal::InvalidSignature("signature".into());
        let signature = Signature::try_from(signature).map_err(|_| bad())?;
        let statement = signal::link_statement(caller.user_id, &device_id, &identity);
        if !signal::verify(&own, &statement, &signature) {
            return Err(bad());
        }
        self.count("links", caller).await?;
        let now = self.clock.now();
        let expires_at = now.plus(LINK_LIFE);
        let offer = LinkOffer {
            user_id: caller.user_id,
            by: caller.device_no,
            device_id,
            identity_key: identity,
            linked_by: LinkedBy { device_id: caller.device_id.clone(), identity_key: own, signature },
            token_hash,
            expires_at,
        };
        if self.store.offer_link(offer, now).await? { Ok(expires_at) } else { Err(Refusal::UnknownDevice) }
    }

    /// Adds and replaces keys of the calling device.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn upload(&self, caller: &Caller, request: UploadRequest) -> Result<Uploaded, Refusal> {
        let most = self.limits.max_prekeys;
        if request.onetime_prekeys.len() > most as usize {
            return Err(Refusal::TooMany("onetime_prekeys", most));
        }
        if request.kem_prekeys.len() > most as usize {
            return Err(Refusal::TooMany("kem_prekeys", most));
        }
        let lasting = self.store.lasting_keys(caller.device_no).await?.ok_or(Refusal::UnknownDevice)?;
        let upload = blocking(move || checked_upload(&lasting.identity_key, &request)).await?;
        if upload.signed_prekey.is_some() {
            self.count("rotations", caller).await?;
        }
        let indexes = Indexes::of(&upload.onetime_prekeys, &upload.kem_prekeys);
        let at = self.clock.now();
        match self.store.publish_keys(caller.device_no, upload, at).await? {
            Published::Published { accepted, already_known, onetime_count, kem_count } => {
                Ok(Uploaded { accepted, already_known, onetime_count, kem_count, at })
            }
            Published::KeyReused(kind, id) => Err(indexes.reused(kind, id)),
            Published::TooMany(KeyKind::OneTime | KeyKind::Signed) => {
                Err(Refusal::TooMany("onetime_prekeys", most))
            }
            Published::TooMany(KeyKind::Kem) => Err(Refusal::TooMany("kem_prekeys", most)),
            Published::Gone => Err(Refusal::UnknownDevice),
        }
    }

    /// Deactivates a device of the caller's user. To be followed by [`Keys::part`], once the device is shut out here.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn deactivate(&self, caller: &Caller, target: &DeviceId) -> Result<DeviceNo, Refusal> {
        match self.store.deactivate(caller, target, self.clock.now()).await? {
            Deactivated::Gone(device) => Ok(device),
            Deactivated::Unknown => Err(Refusal::UnknownDevice),
            Deactivated::NotAllowed => Err(Refusal::NotAllowed),
        }
    }

    /// Ends the sessions of a deactivated device on every node and drops what hot state holds for it.
    pub async fn part(&self, device: DeviceNo) {
        self.switchboard.notify(device, Event::Deactivated).await;
        self.switchboard.forget_device(device).await;
    }

    /// The active devices of a user, oldest first.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub async fn devices(&self, user: UserId) -> Result<Vec<Device>, Refusal> {
        Ok(self.store.devices(user).await?)
    }

    /// How many keys the calling device has, and how old its signed pre-key is.
    ///
    /// # Errors
    /// `UnknownDevice` when it was deactivated.
    pub async fn stats(&self, caller: &Caller) -> Result<(KeyStats, Duration), Refusal> {
        let stats =
            self.store.key_stats(caller.device_no, self.clock.now()).await?.ok_or(Refusal::UnknownDevice)?;
        Ok((stats, self.clock.now().since(stats.signed_prekey_at)))
    }

    /// Compares the caller's digest of its lasting keys with the relay's.
    ///
    /// # Errors
    /// `KeysDiffer`.
    pub async fn compare(&self, caller: &Caller, digest: &[u8]) -> Result<(), Refusal> {
        let keys = self.store.lasting_keys(caller.device_no).await?.ok_or(Refusal::UnknownDevice)?;
        let own =
            signal::key_digest(&keys.identity_key, &keys.signed_prekey, keys.last_resort_kem_prekey.as_ref());
        if bool::from(own.ct_eq(digest)) { Ok(()) } else { Err(Refusal::KeysDiffer) }
    }
}

fn check_last_resort(
    identity: &IdentityKey,
    raw: Option<&RawSignedPreKey>,
) -> Result<Option<crate::domain::SignedPreKey>, Refusal> {
    raw.map(|raw| check::kem(identity, "last_resort_kem_prekey", raw)).transpose()
}

/// Checks on keys that may run at the same time, the rest waits: they are all CPU.
static CHECKS: Semaphore = Semaphore::const_new(2);

/// Runs checks of keys where they keep no socket waiting: 200 signatures take tens of milliseconds.
async fn blocking<T: Send + 'static>(
    check: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, Refusal> {
    let stopped =
        |error: Box<dyn std::error::Error + Send + Sync>| Refusal::Store(StoreError::Unavailable(error));
    let turn = CHECKS.acquire().await.map_err(|error| stopped(error.into()))?;
    let run = move || {
        // Held until the check is done, also when nobody waits for it any more.
        let _turn = turn;
        check()
    };
    // Without the words of a panic, which may hold what a client sent.
    tokio::task::spawn_blocking(run).await.map_err(|error| stopped(std::io::Error::from(error).into()))?
}

fn checked_upload(identity: &IdentityKey, request: &UploadRequest) -> Result<KeyUpload, Refusal> {
    let last_resort = request.last_resort_kem_prekey.as_ref();
    let signed = request.signed_prekey.as_ref();
    Ok(KeyUpload {
        signed_prekey: signed.map(|raw| check::signed(identity, "signed_prekey", raw)).transpose()?,
        onetime_prekeys: check::onetime_list(identity, "onetime_prekeys", &request.onetime_prekeys)?,
        kem_prekeys: check::kem_list(identity, "kem_prekeys", &request.kem_prekeys, last_resort)?,
        last_resort_kem_prekey: check_last_resort(identity, last_resort)?,
    })
}

/// Where the ids of an upload stood in their lists, to name the place of a reused one.
struct Indexes {
    onetime: Vec<KeyId>,
    kem: Vec<KeyId>,
}

impl Indexes {
    fn of(onetime: &[crate::domain::OneTimePreKey], kem: &[crate::domain::SignedPreKey]) -> Self {
        Self {
            onetime: onetime.iter().map(|key| key.id).collect(),
            kem: kem.iter().map(|key| key.id).collect(),
        }
    }

    fn reused(&self, kind: KeyKind, id: KeyId) -> Refusal {
        let index = |ids: &[KeyId]| ids.iter().position(|other| *other == id);
        match kind {
            KeyKind::Signed => Refusal::Reused("signed_prekey", None),
            KeyKind::OneTime => Refusal::Reused("onetime_prekeys", index(&self.onetime)),
            KeyKind::Kem => match index(&self.kem) {
                None => Refusal::Reused("last_resort_kem_prekey", None),
                found => Refusal::Reused("kem_prekeys", found),
            },
        }
    }
}
