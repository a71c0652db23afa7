//! A device comes: first of its user, linked by another, or bringing its user back.

use bytes::Bytes;

use super::{
    Indexes, Keys, LEAST_PREKEYS, MlsRefusal, PackageRules, RawMlsKey, RawPackages, RawPreKey,
    RawSignedPreKey, Refusal, blocking, check, check_last_resort, signal,
};
use crate::{
    domain::{DeviceId, IdentityKey, RegistrationId, SecurityEvent, Signature, Timestamp, UserId},
    store::{NewSession, Principal, Registered, Registration, Revival, SingleUse},
};

/// A registration as it came.
#[derive(Debug)]
pub struct RegistrationRequest {
    /// The user.
    pub user_id: UserId,
    /// The device.
    pub device_id: DeviceId,
    /// A name for its owner's eyes.
    pub device_name: Option<String>,
    /// Its registration id.
    pub registration_id: RegistrationId,
    /// Its identity key.
    pub identity_key: Bytes,
    /// Its signature over the registration statement.
    pub proof: Option<Bytes>,
    /// Its signed pre-key.
    pub signed_prekey: RawSignedPreKey,
    /// Its one-time pre-keys.
    pub onetime_prekeys: Vec<RawPreKey>,
    /// Its one-time KEM pre-keys.
    pub kem_prekeys: Vec<RawSignedPreKey>,
    /// Its last-resort KEM pre-key.
    pub last_resort_kem_prekey: Option<RawSignedPreKey>,
    /// Its MLS signature keys.
    pub mls_signature_keys: Vec<RawMlsKey>,
    /// Its first key packages.
    pub packages: RawPackages,
    /// BLAKE3 of the link token.
    pub link_token_hash: Option<[u8; 32]>,
    /// The signature of an earlier identity key of the user over the recovery statement.
    pub recovery_proof: Option<Bytes>,
    /// What the host application says, if it said something.
    pub admission: Option<Admission>,
    /// The session to open.
    pub session: NewSession,
}

/// The host application admits a user.
#[derive(Debug)]
pub struct Admission {
    /// The token that says so, when it is to bring a user back that has no device left.
    pub recover: Option<SingleUse>,
}

/// What registrations are held against.
#[derive(Debug, Clone)]
pub struct RegistrationRules {
    /// The name that devices sign for.
    pub relay_name: String,
    /// Whether registrations must prove that they hold the identity key.
    pub proof_required: bool,
    /// Whether only the host application decides who may claim a user id.
    pub admission_required: bool,
}

impl Keys {
    /// Registers a device.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn register(&self, request: RegistrationRequest) -> Result<(Principal, Timestamp), Refusal> {
        let revival = self.revival(&request).await?;
        let checks = Checks {
            rules: self.registration.clone(),
            packages: self.packages.clone(),
            most: self.limits.max_prekeys,
            now: self.clock.now(),
        };
        let schemes: Vec<_> = request.mls_signature_keys.iter().map(|key| key.scheme).collect();
        let last_resort_field = request.packages.last_resort_field;
        let mut registration = blocking(move || checked_registration(&checks, request)).await?;
        registration.revival = revival;
        let positions = Indexes::of(&registration.onetime_prekeys, &registration.kem_prekeys);
        let now = self.clock.now();
        match self.store.register_device(registration, now).await? {
            Registered::Registered(principal) => Ok((principal, now)),
            Registered::DeviceExists => Err(Refusal::DeviceExists),
            Registered::AdmissionRequired => Err(Refusal::AdmissionRequired),
            Registered::AdmissionUsed => Err(Refusal::AdmissionUsed),
            Registered::LinkRequired => Err(Refusal::LinkRequired),
            Registered::TooManyDevices => Err(Refusal::TooManyDevices(self.limits.max_devices)),
            Registered::KeyReused(kind, id) => Err(positions.reused(kind, id)),
            Registered::MlsKeyReused(scheme) => {
                let index = schemes.iter().position(|other| *other == i64::from(scheme.number()));
                Err(MlsRefusal::MlsKeyReused(format!("mls_signature_keys[{}]", index.unwrap_or(0))).into())
            }
            Registered::PackageKeyUnknown(place) => {
                Err(MlsRefusal::UnknownSignatureKey(RawPackages::field(last_resort_field, place)).into())
            }
            Registered::PackageReused(place) => {
                Err(MlsRefusal::PackageReused(RawPackages::field(last_resort_field, place)).into())
            }
        }
    }

    /// What brings the user back, should it have no device left.
    async fn revival(&self, request: &RegistrationRequest) -> Result<Option<Revival>, Refusal> {
        let admitted = request.admission.as_ref().and_then(|admission| admission.recover);
        let Some(proof) = request.recovery_proof.clone() else { return Ok(admitted.map(Revival::Admitted)) };
        let known = self.store.recovery_keys(request.user_id).await?;
        if known.is_empty() {
            return Ok(admitted.map(Revival::Admitted));
        }
        let identity = check::identity(&request.identity_key)?;
        let statement = signal::recover_statement(&self.registration.relay_name, request.user_id, &identity);
        let verifying = blocking(move || Ok(signer(&known, &statement, &proof)));
        if let Some(key) = verifying.await? {
            return Ok(Some(Revival::Recovered(key)));
        }
        self.note_refused_admission(request.user_id).await?;
        Err(Refusal::InvalidRecovery)
    }

    /// Enters into the user's trail that somebody was not admitted in its name: at most once an hour, because anybody can
    /// try.
    ///
    /// # Errors
    /// When the store could not be asked.
    pub async fn note_refused_admission(&self, user: UserId) -> Result<(), Refusal> {
        self.note_seldom(user, SecurityEvent::AdmissionRefused).await
    }
}

/// Which of these keys made the signature.
fn signer(keys: &[IdentityKey], statement: &[u8], signature: &[u8]) -> Option<IdentityKey> {
    let signature = Signature::try_from(signature).ok()?;
    keys.iter().find(|key| signal::verify(key, statement, &signature)).copied()
}

/// What a registration is held against away from the store.
pub(super) struct Checks {
    pub(super) rules: RegistrationRules,
    pub(super) packages: PackageRules,
    pub(super) most: u32,
    pub(super) now: Timestamp,
}

pub(super) fn checked_registration(
    checks: &Checks,
    request: RegistrationRequest,
) -> Result<Registration, Refusal> {
    let rules = &checks.rules;
    let identity = check::identity(&request.identity_key)?;
    check_proof(rules, &identity, &request)?;
    check_counts(checks.most, &request, &identity)?;
    let owner = (request.user_id, &request.device_id);
    let (onetime, kem) = (&request.onetime_prekeys, &request.kem_prekeys);
    let last_resort = request.last_resort_kem_prekey.as_ref();
    Ok(Registration {
        mls_signature_keys: check::mls_keys(&identity, owner, &request.mls_signature_keys)?,
        packages: check::packages(&checks.packages, owner, &request.packages, checks.now)?,
        user_id: request.user_id,
        registration_id: request.registration_id,
        identity_key: identity,
        signed_prekey: check::signed(&identity, "signed_prekey", &request.signed_prekey)?,
        onetime_prekeys: check::onetime_list(&identity, "onetime_prekeys", onetime)?,
        kem_prekeys: check::kem_list(&identity, "kem_prekeys", kem, last_resort)?,
        last_resort_kem_prekey: check_last_resort(&identity, last_resort)?,
        link_token_hash: request.link_token_hash,
        may_claim: !rules.admission_required || request.admission.is_some(),
        revival: None,
        device_id: request.device_id,
        device_name: request.device_name,
        session: request.session,
    })
}

fn check_proof(
    rules: &RegistrationRules,
    identity: &IdentityKey,
    request: &RegistrationRequest,
) -> Result<(), Refusal> {
    let Some(proof) = &request.proof else {
        return if rules.proof_required { Err(Refusal::InvalidProof) } else { Ok(()) };
    };
    let public_key = &request.signed_prekey.public_key;
    let statement =
        signal::register_statement(&rules.relay_name, request.user_id, &request.device_id, public_key);
    let proof = Signature::try_from(&proof[..]).map_err(|_| Refusal::InvalidProof)?;
    if signal::verify(identity, &statement, &proof) { Ok(()) } else { Err(Refusal::InvalidProof) }
}

fn check_counts(most: u32, request: &RegistrationRequest, identity: &IdentityKey) -> Result<(), Refusal> {
    if request.onetime_prekeys.len() < LEAST_PREKEYS {
        return Err(Refusal::TooFew("onetime_prekeys", LEAST_PREKEYS));
    }
    if request.onetime_prekeys.len() > most as usize {
        return Err(Refusal::TooMany("onetime_prekeys", most));
    }
    if request.kem_prekeys.len() > most as usize {
        return Err(Refusal::TooMany("kem_prekeys", most));
    }
    if request.packages.key_packages.len() > most as usize {
        return Err(MlsRefusal::TooManyPackages(most).into());
    }
    if matches!(identity, IdentityKey::Signal(_)) && request.last_resort_kem_prekey.is_none() {
        return Err(Refusal::KemRequired);
    }
    Ok(())
}
