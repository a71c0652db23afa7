//! Which key packages may come, given every one that was uploaded before and is not forgotten.
//!
//! Pure, and the same for both engines: an engine reads what is known, asks here, and enters what is new. Packages are looked
//! at in one order, so that both engines name the same one of several that must not come: one-time ones, then the last-resort
//! one.

use std::collections::{HashMap, HashSet};

use super::{PackagePlace, PackageUpload};
use crate::domain::{KeyPackage, KeyPackageRef, MlsSignatureKey};

/// A package of an upload.
pub(super) struct Offered<'a> {
    pub(super) place: PackagePlace,
    pub(super) package: &'a KeyPackage,
    /// BLAKE3 of its body.
    pub(super) digest: [u8; 32],
}

impl Offered<'_> {
    pub(super) fn is_last_resort(&self) -> bool {
        self.place == PackagePlace::LastResort
    }
}

/// Every package of an upload, in order.
pub(super) fn offered(upload: &PackageUpload) -> Vec<Offered<'_>> {
    let one_time = upload.packages.iter().enumerate();
    let one_time = one_time.map(|(index, package)| (PackagePlace::OneTime(index), package));
    let last_resort = upload.last_resort.iter().map(|package| (PackagePlace::LastResort, package));
    let digest = |package: &KeyPackage| blake3::hash(&package.body).into();
    let all = one_time.chain(last_resort);
    all.map(|(place, package)| Offered { place, package, digest: digest(package) }).collect()
}

/// Why an upload of packages is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    SignatureKeyUnknown(PackagePlace),
    Reused(PackagePlace),
}

/// What is known about the packages of one upload.
#[derive(Debug, Default)]
pub(super) struct PackageLedger {
    /// The digest of the body, where it is a package of this device.
    references: HashMap<KeyPackageRef, Option<[u8; 32]>>,
    init_keys: HashSet<[u8; 32]>,
}

impl PackageLedger {
    /// A package with this reference and body was uploaded by this device.
    pub(super) fn hold_own(&mut self, reference: KeyPackageRef, digest: [u8; 32]) {
        self.references.insert(reference, Some(digest));
    }

    /// A package with this reference was uploaded by another device.
    pub(super) fn hold_foreign(&mut self, reference: KeyPackageRef) {
        self.references.insert(reference, None);
    }

    /// The user has uploaded a package with this init key, from some device.
    pub(super) fn hold_init_key(&mut self, digest: [u8; 32]) {
        self.init_keys.insert(digest);
    }

    /// Those of a device's packages that are new, or the first that must not come. `keys`: the device's, current.
    pub(super) fn fresh<'k, 'a>(
        mut self,
        offered: &'k [Offered<'a>],
        keys: &[MlsSignatureKey],
    ) -> Result<Vec<&'k Offered<'a>>, Refused> {
        let mut fresh = Vec::with_capacity(offered.len());
        for one in offered {
            let package = one.package;
            match self.references.get(&package.reference) {
                Some(Some(digest)) if *digest == one.digest => continue,
                Some(_) => return Err(Refused::Reused(one.place)),
                None => {}
            }
            let scheme = package.cipher_suite.signature_scheme();
            if !keys.iter().any(|key| key.scheme == scheme && key.public_key == package.signature_key) {
                return Err(Refused::SignatureKeyUnknown(one.place));
            }
            if !self.init_keys.insert(package.init_key_digest) {
                return Err(Refused::Reused(one.place));
            }
            self.hold_own(package.reference, one.digest);
            fresh.push(one);
        }
        Ok(fresh)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::domain::{CipherSuite, SignatureScheme, Timestamp};

    fn key(byte: u8) -> MlsSignatureKey {
        let public_key = Bytes::from(vec![byte; 32]);
        MlsSignatureKey { scheme: SignatureScheme::Ed25519, public_key, signature: [0; 64] }
    }

    fn package(number: u8) -> KeyPackage {
        KeyPackage {
            reference: KeyPackageRef([number; 32]),
            cipher_suite: CipherSuite::X25519Aes128,
            signature_key: key(1).public_key,
            init_key_digest: [number; 32],
            not_after: Timestamp::from_millis(1),
            body: Bytes::from(vec![number; 8]),
        }
    }

    fn upload(packages: &[KeyPackage], last_resort: Option<KeyPackage>) -> PackageUpload {
        PackageUpload { packages: packages.to_vec(), last_resort }
    }

    /// The places of what is new, where the device has published the package 1, its sibling 2.
    fn fresh(upload: &PackageUpload) -> Result<Vec<PackagePlace>, Refused> {
        let mut ledger = PackageLedger::default();
        ledger.hold_own(package(1).reference, blake3::hash(&package(1).body).into());
        ledger.hold_foreign(package(2).reference);
        ledger.hold_init_key(package(1).init_key_digest);
        ledger.hold_init_key(package(2).init_key_digest);
        Ok(ledger.fresh(&offered(upload), &[key(1)])?.iter().map(|one| one.place).collect())
    }

    #[test]
    fn what_is_known_byte_for_byte_is_skipped() {
        let twice = upload(&[package(1), package(3), package(3)], Some(package(1)));
        assert_eq!(fresh(&twice), Ok(vec![PackagePlace::OneTime(1)]));
        assert_eq!(fresh(&upload(&[], Some(package(4)))), Ok(vec![PackagePlace::LastResort]));
    }

    #[test]
    fn another_package_with_a_known_reference_or_init_key_is_refused() {
        let other_body = KeyPackage { body: Bytes::from_static(b"other"), ..package(1) };
        let same_init_key = KeyPackage { reference: KeyPackageRef([9; 32]), ..package(1) };
        let within = KeyPackage { init_key_digest: [3; 32], ..package(4) };
        for reused in [other_body, package(2), same_init_key, within] {
            let refused = fresh(&upload(&[package(3), reused.clone()], None));
            assert_eq!(refused, Err(Refused::Reused(PackagePlace::OneTime(1))));
            let refused = fresh(&upload(&[package(3)], Some(reused)));
            assert_eq!(refused, Err(Refused::Reused(PackagePlace::LastResort)));
        }
    }

    #[test]
    fn a_new_package_needs_the_current_key_of_its_suite() {
        let foreign = KeyPackage { signature_key: key(2).public_key, ..package(3) };
        let other_scheme = KeyPackage { cipher_suite: CipherSuite::P256Aes128, ..package(3) };
        for unknown in [foreign, other_scheme] {
            let refused = fresh(&upload(&[unknown], None));
            assert_eq!(refused, Err(Refused::SignatureKeyUnknown(PackagePlace::OneTime(0))));
        }
        let former = KeyPackage { signature_key: key(2).public_key, ..package(1) };
        assert_eq!(fresh(&upload(&[former], None)), Ok(Vec::new()), "it was uploaded before");
    }
}
