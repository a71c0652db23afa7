//! Roster groups: who is in them changes by the word of an admin. And names, which any group may have.

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{Changed, Groups, Refusal, allowed_to};
use crate::{
    domain::{Caller, GroupId, SEALED_MIN, UserId, is_plaintext},
    store::{RosterChange, RosterChanged},
};

/// The most bytes that a sealed name or description has.
const MOST_BLOB: usize = 4096;

impl Groups {
    /// Adds users to a roster group; those who are in it are skipped.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn add_users(
        &self,
        caller: &Caller,
        group_id: GroupId,
        add: Vec<UserId>,
    ) -> Result<Changed, Refusal> {
        if add.len() > self.rules.max_members as usize {
            // A stranger learns nothing by the size of its own request.
            self.member(caller, group_id).await?;
            return Err(Refusal::GroupFull(self.rules.max_members));
        }
        self.change_roster(RosterChange { group_id, by: caller.clone(), add, remove: Vec::new() }).await
    }

    /// Removes a user from a roster group; oneself, to leave it.
    ///
    /// # Errors
    /// A [`Refusal`]; nothing changed.
    pub async fn remove_user(
        &self,
        caller: &Caller,
        group_id: GroupId,
        user: UserId,
    ) -> Result<Changed, Refusal> {
        self.change_roster(RosterChange { group_id, by: caller.clone(), add: Vec::new(), remove: vec![user] })
            .await
    }

    async fn change_roster(&self, change: RosterChange) -> Result<Changed, Refusal> {
        match self.store.change_roster(change, self.clock.now()).await? {
            RosterChanged::Changed(epoch, position) => Ok(Changed { epoch, position }),
            RosterChanged::NotMember => Err(Refusal::UnknownGroup),
            RosterChanged::NotAllowed => {
                Err(Refusal::NotAllowed("an admin adds and removes members, and nobody removes the owner"))
            }
            RosterChanged::CommitRequired => Err(Refusal::CommitRequired),
            RosterChanged::Unknown => Err(Refusal::Unknown("member")),
            RosterChanged::CannotAdd(why) => Err(self.cannot_add(why)),
        }
    }

    /// Gives a group a new name or description, or both.
    ///
    /// # Errors
    /// `NotAllowed` for anyone but an admin; `NotCiphertext`, `TooLarge`.
    pub async fn describe(
        &self,
        caller: &Caller,
        group: GroupId,
        name: Option<String>,
        description: Option<String>,
    ) -> Result<(), Refusal> {
        let name = self.blob("name", name)?;
        let description = self.blob("description", description)?;
        let described = self.store.describe_group(group, caller, name, description).await?;
        allowed_to(described, "group", "an admin names and describes the group")
    }

    /// A name or description, if it is one that may be kept.
    pub(super) fn blob(&self, field: &'static str, text: Option<String>) -> Result<Option<String>, Refusal> {
        text.map(|text| check_blob(field, text, self.rules.plaintext_guard)).transpose()
    }
}

/// A sealed blob in base64. Less than a ciphertext needs is taken for a word that happens to be base64.
fn check_blob(field: &'static str, text: String, guard: bool) -> Result<String, Refusal> {
    if text.len() > MOST_BLOB.div_ceil(3) * 4 {
        return Err(Refusal::TooLarge(field, MOST_BLOB));
    }
    if !guard {
        return Ok(text);
    }
    let sealed = STANDARD.decode(&text).map_err(|_| Refusal::NotCiphertext(field))?;
    if sealed.len() > MOST_BLOB {
        return Err(Refusal::TooLarge(field, MOST_BLOB));
    }
    if sealed.len() < SEALED_MIN || is_plaintext(&sealed) {
        return Err(Refusal::NotCiphertext(field));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(bytes: &[u8]) -> Result<String, Refusal> {
        check_blob("name", STANDARD.encode(bytes), true)
    }

    #[test]
    fn a_name_is_a_sealed_blob() {
        assert!(checked(&[0x80; 28]).is_ok() && checked(&[0x80; MOST_BLOB]).is_ok());
        assert!(matches!(checked(&[0x80; 27]), Err(Refusal::NotCiphertext("name"))));
        assert!(matches!(checked(&[b'a'; 64]), Err(Refusal::NotCiphertext("name"))));
        assert!(matches!(checked(&[0x80; MOST_BLOB + 1]), Err(Refusal::TooLarge("name", MOST_BLOB))));
        for text in ["", "Team", "The Book Club", "QUJD"] {
            assert!(
                matches!(check_blob("name", text.into(), true), Err(Refusal::NotCiphertext(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn without_the_guard_a_name_is_any_short_text() {
        assert_eq!(check_blob("name", "The Book Club".into(), false).unwrap(), "The Book Club");
        assert!(check_blob("name", "x".repeat(5465), false).is_err());
    }
}
