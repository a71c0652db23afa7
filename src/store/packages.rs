//! What acts on MLS keys and key packages take, become and promise (RFC 9420 §10, RFC 9750 §5.1).

use async_trait::async_trait;
use bytes::Bytes;

use super::{OneTimeKeys, StoreError};
use crate::domain::{
    Caller, CipherSuite, DeviceNo, KeyPackage, KeyPackageRef, MlsSignatureKey, Timestamp, UserId,
};

/// Key packages for a device. Every one has been checked, apart from what the store knows.
#[derive(Debug, Clone, Default)]
pub struct PackageUpload {
    /// One-time packages to add.
    pub packages: Vec<KeyPackage>,
    /// A last-resort package, which replaces the current one of its suite.
    pub last_resort: Option<KeyPackage>,
}

/// Which package of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackagePlace {
    /// The one-time package at this index.
    OneTime(usize),
    /// The last-resort one.
    LastResort,
}

/// What became of an upload of key packages: all of it, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PackagesPublished {
    /// All are there.
    Published {
        /// How many were new.
        accepted: u32,
        /// How many had been uploaded before, used or not, and were skipped.
        already_known: u32,
        /// One-time packages now stored that have not ended.
        count: u32,
        /// Whether there is a last-resort package, of any suite.
        has_last_resort: bool,
    },
    /// The signature key of its leaf is not the one registered for its suite's scheme.
    SignatureKeyUnknown(PackagePlace),
    /// Another package of this user had the same init key, or the same reference with another body; or one of this upload
    /// has.
    Reused(PackagePlace),
    /// More one-time packages would be stored than a device may have ([`super::Limits::max_prekeys`]).
    TooMany,
    /// The device was deactivated.
    Gone,
}

/// What became of an MLS signature key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MlsKeySet {
    /// It is the device's key of its scheme now, or was already. How many packages of the former key were dropped.
    Set(u32),
    /// It is, or was, the key of another device, or a former key of this one.
    Reused,
    /// The device was deactivated.
    Gone,
}

/// A key package that was handed out.
#[derive(Debug, Clone)]
pub struct ClaimedPackage {
    /// Whose.
    pub owner: Caller,
    /// The package.
    pub package: Bytes,
    /// Whether it is the last-resort one, which may be given again.
    pub is_last_resort: bool,
    /// One-time packages of the suite that are left to the device.
    pub left: u32,
}

/// A key package that a Welcome or an Add proposal names.
#[derive(Debug, Clone)]
pub struct IssuedPackage {
    /// Its reference.
    pub reference: KeyPackageRef,
    /// Whose.
    pub owner: Caller,
    /// Whether that incarnation is active.
    pub active: bool,
    /// Its suite.
    pub cipher_suite: CipherSuite,
    /// Whether it may enter a group: it was handed out and entered none yet, or is a last-resort one, and its signature key
    /// is still the device's.
    pub usable: bool,
}

/// Acts on MLS keys and key packages. See [`super::Store`] for what holds for every act.
#[async_trait]
pub trait PackageActs: Send + Sync {
    /// Gives a device its signature key of a scheme, in place of the former one, whose packages are dropped: those that
    /// were handed out may not enter a group any more. Enters `KeyRotated` when there was another one.
    async fn set_mls_key(
        &self,
        device: DeviceNo,
        key: MlsSignatureKey,
        now: Timestamp,
    ) -> Result<MlsKeySet, StoreError>;

    /// Adds key packages to a device: all, or nothing. A byte-identical package that was uploaded before is skipped and
    /// counted, used or not. Of several that must not come the first is named, one-time ones first.
    async fn publish_packages(
        &self,
        device: DeviceNo,
        upload: PackageUpload,
        now: Timestamp,
    ) -> Result<PackagesPublished, StoreError>;

    /// Hands out one package for each active device of a user but `except` that has one of this suite which has not ended
    /// at `now`, oldest device first, in one act: one-time ones in the order of their upload, then the last-resort one.
    /// A one-time package is given to nobody else, over all nodes and crashes. Empty when there is none.
    async fn claim_packages(
        &self,
        user: UserId,
        suite: CipherSuite,
        except: Option<DeviceNo>,
        onetime: OneTimeKeys,
        now: Timestamp,
    ) -> Result<Vec<ClaimedPackage>, StoreError>;

    /// The packages with these references that the relay ever took and has not forgotten, in any order; at most 1,500 are
    /// asked for. One is forgotten a day after its leaf's end.
    async fn issued_packages(&self, references: &[KeyPackageRef]) -> Result<Vec<IssuedPackage>, StoreError>;
}
