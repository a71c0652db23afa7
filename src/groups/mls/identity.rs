//! What stands in a leaf: the credential that names a device, and the key that it signs with.

use openmls::prelude::{BasicCredential, Credential, CredentialType};

use crate::domain::{CipherSuite, DeviceId, MlsSignatureKey, UserId, leaf_identity};

/// The identity in a device's basic credential (RFC 9420 §5.3): `<user_id>:<device_id>`, the user id hyphenated and in lower
/// case. Every member of the group sees it.
#[must_use]
pub fn identity(user_id: UserId, device_id: &DeviceId) -> Vec<u8> {
    leaf_identity(user_id, device_id).into_bytes()
}

/// The identity in a credential; none when it is not a basic one.
pub(super) fn identity_in(credential: &Credential) -> Option<Vec<u8>> {
    if credential.credential_type() != CredentialType::Basic {
        return None;
    }
    BasicCredential::try_from(credential.clone()).ok().map(|basic| basic.identity().to_vec())
}

/// Whether a credential names this device.
pub(super) fn names(credential: &Credential, user_id: UserId, device_id: &DeviceId) -> bool {
    identity_in(credential).is_some_and(|found| found == identity(user_id, device_id))
}

/// A device's key for the groups of a suite.
pub(super) fn registered_key(keys: &[MlsSignatureKey], suite: CipherSuite) -> Option<&[u8]> {
    keys.iter().find(|key| key.scheme == suite.signature_scheme()).map(|key| &key.public_key[..])
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_credential_names_one_device_in_one_spelling() {
        let user = UserId::new(Uuid::from_u128(0xABCD));
        let device = DeviceId::parse("Phone-1").unwrap();
        let text = "00000000-0000-0000-0000-00000000abcd:Phone-1";
        assert_eq!(identity(user, &device), text.as_bytes());
        for (identity, named) in [
            (text.to_owned(), true),
            (text.to_uppercase(), false),
            (text.replace('-', ""), false),
            (format!("{text} "), false),
        ] {
            let credential: Credential = BasicCredential::new(identity.into_bytes()).into();
            assert_eq!(names(&credential, user, &device), named);
        }
        let x509 = Credential::new(CredentialType::X509, text.as_bytes().to_vec());
        assert!(!names(&x509, user, &device));
    }
}
