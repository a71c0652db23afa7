//! Welcomes (RFC 9420 §12.4.3.1), split into one for each joiner.
//!
//! Nothing signs the list of encrypted secrets, and a joiner looks for its own entry alone; so a Welcome for 1,499 devices
//! becomes 1,499 small ones.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;

use super::{
    NotMls, WelcomeFault, header,
    reader::{Reader, write_vector},
};
use crate::domain::{CipherSuite, KeyPackageRef, MAX_MEMBERS};

/// Bytes of one joiner's part of a Welcome, about: the tree of a group of 1,500 fits.
const LARGEST_PART: usize = 1 << 20;

/// Bytes of all parts of a Welcome together.
const LARGEST_SPLIT: usize = 64 << 20;

/// A Welcome, read but not opened.
#[derive(Clone)]
pub struct Welcome<'a> {
    cipher_suite: CipherSuite,
    /// Each `EncryptedGroupSecrets` as it came.
    secrets: HashMap<KeyPackageRef, &'a [u8]>,
    encrypted_group_info: &'a [u8],
}

impl<'a> Welcome<'a> {
    /// Reads a Welcome.
    ///
    /// # Errors
    /// When these are not the bytes of one, its suite is not taken, it names nobody, one key package twice, or more than a
    /// group has members.
    pub fn parse(message: &'a [u8]) -> Result<Self, NotMls> {
        let mut reader = Reader::new(message);
        if (reader.u16()?, reader.u16()?) != (header::MLS10, header::WELCOME) {
            return Err(NotMls::WireFormat);
        }
        let cipher_suite = CipherSuite::new(reader.u16()?.into()).map_err(|_| NotMls::Malformed)?;
        let mut entries = Reader::new(reader.vector()?);
        let encrypted_group_info = reader.vector()?;
        reader.end()?;
        let mut secrets = HashMap::new();
        while !entries.rest().is_empty() {
            let before = entries.rest();
            let reference = entries.vector()?.try_into().map_err(|_| NotMls::Malformed)?;
            let (_kem_output, _ciphertext) = (entries.vector()?, entries.vector()?);
            let (entry, _) = before.split_at(before.len() - entries.rest().len());
            if secrets.insert(KeyPackageRef(reference), entry).is_some() || secrets.len() > MAX_MEMBERS {
                return Err(NotMls::Malformed);
            }
        }
        if secrets.is_empty() {
            return Err(NotMls::Malformed);
        }
        Ok(Self { cipher_suite, secrets, encrypted_group_info })
    }

    /// Whether all that it is split into is more than is kept of one commit. What it says of the group comes in each part.
    pub(super) fn is_too_large(&self) -> bool {
        let part = self.encrypted_group_info.len();
        part > LARGEST_PART || part.saturating_mul(self.secrets.len()) > LARGEST_SPLIT
    }

    /// Its suite.
    #[must_use]
    pub const fn cipher_suite(&self) -> CipherSuite {
        self.cipher_suite
    }

    /// The key packages that it names, in no order. They are what the store must be asked for before a commit is judged.
    #[must_use]
    pub fn references(&self) -> Vec<KeyPackageRef> {
        self.secrets.keys().copied().collect()
    }

    /// Whether it names exactly these.
    pub(super) fn names_exactly(&self, references: &BTreeSet<KeyPackageRef>) -> bool {
        self.secrets.len() == references.len()
            && references.iter().all(|reference| self.secrets.contains_key(reference))
    }

    /// The Welcome for one joiner alone; none when it names no such package.
    pub(super) fn split(&self, reference: KeyPackageRef) -> Option<Bytes> {
        let entry = self.secrets.get(&reference)?;
        let mut message = Vec::with_capacity(entry.len() + self.encrypted_group_info.len() + 14);
        message.extend(header::MLS10.to_be_bytes());
        message.extend(header::WELCOME.to_be_bytes());
        message.extend(self.cipher_suite.number().to_be_bytes());
        write_vector(entry, &mut message)?;
        write_vector(self.encrypted_group_info, &mut message)?;
        Some(message.into())
    }
}

/// The Welcome of a commit in a group of this suite: there when the commit adds somebody, and only then.
pub(super) fn fitting<'a>(
    welcome: Option<&'a Bytes>,
    suite: CipherSuite,
    added: &BTreeSet<KeyPackageRef>,
) -> Result<Option<Welcome<'a>>, WelcomeFault> {
    let Some(message) = welcome else {
        return if added.is_empty() { Ok(None) } else { Err(WelcomeFault::Missing) };
    };
    if added.is_empty() {
        return Err(WelcomeFault::Superfluous);
    }
    let welcome = Welcome::parse(message).map_err(|_| WelcomeFault::Malformed)?;
    if welcome.cipher_suite != suite {
        return Err(WelcomeFault::Malformed);
    }
    if !welcome.names_exactly(added) {
        return Err(WelcomeFault::References);
    }
    if welcome.is_too_large() {
        return Err(WelcomeFault::TooLarge);
    }
    Ok(Some(welcome))
}
