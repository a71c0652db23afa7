//! Refusals of keys and devices as problems.

use super::{MlsRefusal, Refusal};
use crate::http::Problem;

/// The place in a list that a field's path names, if it names one.
fn index_in(field: &str) -> Option<u64> {
    let (_, rest) = field.split_once('[')?;
    rest.split_once(']')?.0.parse().ok()
}

/// 422 for a field, with the place in a list that its path names.
fn unprocessable(code: &'static str, field: &str, detail: String) -> Problem {
    let problem = Problem::new(422, code, detail).with("field", field);
    if let Some(index) = index_in(field) { problem.with("index", index) } else { problem }
}

/// A refused rotation, its field named as it stands in the body, which has two forms.
pub(super) fn refused_rotation(refusal: Refusal, flat: bool) -> Problem {
    let problem = Problem::from(refusal);
    let part = if problem.code() == "invalid-signature" { "signature" } else { "id" };
    problem.renamed(|field| match field.strip_prefix("signed_prekey") {
        Some("") if flat => part.to_owned(),
        Some(rest) if flat => rest.trim_start_matches('.').to_owned(),
        _ => format!("new_{field}"),
    })
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::InvalidKey(field, why) => {
                unprocessable("invalid-key", &field, format!("{field}: {why}"))
            }
            Refusal::InvalidSignature(field) => {
                unprocessable("invalid-signature", &field, format!("{field}: the signature does not verify"))
            }
            Refusal::InvalidProof => unprocessable(
                "invalid-proof",
                "proof",
                "proof: it does not verify under the identity key".into(),
            ),
            Refusal::KemRequired => unprocessable(
                "kem-required",
                "last_resort_kem_prekey",
                "last_resort_kem_prekey: needed with a 33-byte identity key".into(),
            ),
            Refusal::TooFew(field, least) => {
                unprocessable("too-few-prekeys", field, format!("{field}: at least {least} are needed"))
                    .with("least", least)
            }
            Refusal::TooMany(field, most) => {
                unprocessable("too-many-prekeys", field, format!("{field}: at most {most} are kept"))
                    .with("most", most)
            }
            Refusal::Duplicate(field, index) => unprocessable(
                "duplicate-prekey-id",
                &field,
                format!("{field}[{index}]: this id or key occurs twice"),
            )
            .with("index", index),
            Refusal::Reused(field, index) => {
                let problem =
                    unprocessable("prekey-reused", field, format!("{field}: an id or key was used before"));
                if let Some(index) = index { problem.with("index", index) } else { problem }
            }
            Refusal::Mls(refusal) => refusal.into(),
            Refusal::DeviceExists => {
                Self::new(409, "device-exists", "this device id is active; log in instead")
            }
            Refusal::LinkRequired => Self::new(
                403,
                "link-required",
                "the user id is claimed: an existing device must link this one, or with none left a recovery proof or an \
                 admission token bring it back",
            ),
            Refusal::AdmissionRequired => Self::new(
                403,
                "admission-required",
                "nobody has this user id, and claiming it needs an admission token of the host application",
            ),
            Refusal::AdmissionUsed => {
                Self::new(403, "admission-used", "this admission token has brought the user back before")
            }
            Refusal::InvalidRecovery => unprocessable(
                "invalid-proof",
                "recovery_proof",
                "recovery_proof: it does not verify under an earlier identity key that speaks for the user"
                    .into(),
            ),
            Refusal::TooManyDevices(most) => {
                Self::new(409, "too-many-devices", "the user has as many devices as it may have")
                    .with("most", most)
            }
            Refusal::NotAllowed => {
                Self::new(403, "not-allowed", "a device linked less than 24 hours ago cannot end older ones")
            }
            Refusal::UnknownDevice => Self::not_found("device"),
            Refusal::KeysDiffer => {
                Self::new(409, "keys-differ", "the relay holds other keys for this device")
            }
            Refusal::TooOften(wait) => {
                Self::rate_limited(wait, "this device does this too often; repeat it later")
            }
            Refusal::Store(error) => error.into(),
        }
    }
}

impl From<MlsRefusal> for Problem {
    fn from(refusal: MlsRefusal) -> Self {
        match refusal {
            MlsRefusal::InvalidPackage(field, why) => {
                unprocessable("invalid-key-package", &field, format!("{field}: {why}"))
                    .with("reason", why.reason())
            }
            MlsRefusal::PackageReused(field) => unprocessable(
                "package-reused",
                &field,
                format!("{field}: this package, or one with its init key, came before"),
            ),
            MlsRefusal::UnknownSignatureKey(field) => unprocessable(
                "unknown-signature-key",
                &field,
                format!("{field}: its signature key is not the one registered for this device and scheme"),
            ),
            MlsRefusal::TooManyPackages(most) => unprocessable(
                "too-many-packages",
                "key_packages",
                format!("key_packages: at most {most} are kept"),
            )
            .with("most", most),
            MlsRefusal::MlsKeyReused(field) => unprocessable(
                "signature-key-reused",
                &field,
                format!("{field}: another device has or had this key, or this device had it before"),
            ),
            MlsRefusal::NoPackage => Self::not_found("key package"),
        }
    }
}
