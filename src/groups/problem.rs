//! Refusals of groups as problems.

use serde::Serialize;

use super::{Refusal, mls};
use crate::{http::Problem, store::CannotAdd};

fn unprocessable(code: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(422, code, detail)
}

/// A refusal about one field.
fn about(field: &str, problem: Problem) -> Problem {
    problem.with("field", field)
}

fn group_full(most: impl Serialize) -> Problem {
    unprocessable("group-full", "the group would have more members than it may").with("most", most)
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownGroup => Self::not_found("group"),
            Refusal::Unknown(what) => Self::not_found(what),
            Refusal::NotAllowed(why) => Self::new(403, "not-allowed", why),
            Refusal::TooShort(field) => about(
                field,
                unprocessable("bad-envelope", format!("{field}: the body must have 28 bytes or more")),
            ),
            Refusal::NotCiphertext(field) => about(
                field,
                unprocessable(
                    "not-ciphertext",
                    format!(
                        "{field}: this is readable, or too short to be sealed; the relay takes sealed bytes only"
                    ),
                ),
            ),
            Refusal::TooLarge(field, limit) => about(
                field,
                Self::new(413, "too-large", format!("{field}: at most {limit} bytes are taken"))
                    .with("limit", limit),
            ),
            Refusal::BadExpiry => about(
                "expires_in_seconds",
                unprocessable("bad-expiry", "expires_in_seconds lies between 1 and 2592000"),
            ),
            Refusal::GroupExists => about(
                "group_id",
                Self::new(409, "group-exists", "the id belongs to another group or conversation"),
            ),
            Refusal::StaleEpoch(epoch) => {
                Self::new(409, "stale-epoch", "the group is in another epoch").with("current_epoch", epoch.0)
            }
            Refusal::RolledBack => Self::new(
                409,
                "group-rolled-back",
                "the relay was restored to an earlier state of the group; it goes on after a reset or an external commit",
            ),
            Refusal::MessageIdReused => about(
                "message_id",
                Self::new(409, "message-id-reused", "this message id belongs to another send"),
            ),
            Refusal::CommitRequired => unprocessable(
                "commit-required",
                "who is in an MLS group changes by commits, and to leave by proposals, alone",
            ),
            Refusal::NotMls(field, why) => about(field, unprocessable("not-mls", why)),
            Refusal::RosterGroup => unprocessable("not-mls", "a roster group has nothing of MLS"),
            Refusal::LaxerHandshake => about(
                "handshake",
                unprocessable("laxer-handshake", "a reset keeps the handshakes or makes them stricter"),
            ),
            Refusal::LeavesMissing => about(
                "proposals",
                unprocessable(
                    "leaves-missing",
                    "leaving takes a Remove or SelfRemove for every leaf of one's own, and nothing else",
                ),
            ),
            Refusal::ProposalExists(index) => unprocessable(
                "proposal-exists",
                "another proposal of this device about the same leaf is pending",
            )
            .with("index", index),
            Refusal::TooManyProposals(most) => {
                unprocessable("too-many-proposals", "as many proposals are pending as may be")
                    .with("most", most)
            }
            Refusal::GroupFull(most) => group_full(most),
            Refusal::CannotAdd(why, most) => cannot_add(why, most),
            Refusal::TooManyInvites(most) => {
                Self::too_many("too-many-invites", "the group has as many join tokens as it may", 3600)
                    .with("most", most)
            }
            Refusal::Mls(field, refusal) => of_mls(field, refusal),
            Refusal::Unexpected(why) => unprocessable("invalid-commit", why).with("reason", why),
            Refusal::Busy => Self::unavailable(
                "overloaded",
                "too much waits to be checked; nothing was done, repeat the request",
            ),
            Refusal::Store(error) => error.into(),
        }
    }
}

fn cannot_add(why: CannotAdd, most: u32) -> Problem {
    match why {
        CannotAdd::PackageUsed(_) => unprocessable(
            "package-used",
            "a key package was never handed out, was dropped, or has entered a group",
        ),
        CannotAdd::DeviceGone(_) => {
            unprocessable("unknown-device", "a device that would be added is not active")
        }
        CannotAdd::UserUnknown(user) => {
            unprocessable("unknown-user", "a user has no active device, or does not exist")
                .with("user_id", user.uuid())
        }
        CannotAdd::MailboxFull => {
            Problem::too_many("mailbox-full", "the mailbox of a device that would be added is full", 60)
        }
        CannotAdd::GroupFull => group_full(most),
        CannotAdd::TooManyGroups(user) => {
            unprocessable("too-many-groups", "a user that would be added is in as many groups as it may be")
                .with("user_id", user.uuid())
                .with("most", most)
        }
    }
}

/// A refusal of the MLS rules; `field` held what is refused.
fn of_mls(field: &'static str, refusal: mls::Refusal) -> Problem {
    let detail = refusal.to_string();
    let reasoned = |code| about(field, unprocessable(code, detail.clone()).with("reason", detail.clone()));
    match refusal {
        mls::Refusal::NotMls(_) => about(field, unprocessable("not-mls", format!("{field}: {detail}"))),
        mls::Refusal::NotFound => Problem::not_found("group"),
        mls::Refusal::NotYou => about(field, Problem::new(403, "not-you", detail)),
        mls::Refusal::StaleEpoch(epoch) => Refusal::StaleEpoch(epoch).into(),
        mls::Refusal::InvalidCommit(_) => reasoned("invalid-commit"),
        mls::Refusal::ProposalNotAllowed(_) => reasoned("proposal-not-allowed"),
        mls::Refusal::WelcomeMismatch(_) => reasoned("welcome-mismatch"),
        mls::Refusal::BadGroupInfo(_) => reasoned("bad-group-info"),
        mls::Refusal::GroupFull => group_full(crate::domain::MAX_MEMBERS),
        mls::Refusal::PackageUsed(_) => unprocessable("package-used", detail),
        mls::Refusal::UnknownDevice(_) => unprocessable("unknown-device", detail),
        mls::Refusal::PendingLeave => unprocessable("pending-leave", detail),
        mls::Refusal::Unavailable(_) => {
            tracing::error!(fault = %refusal, "the stored state of a group cannot be used");
            Problem::new(500, "internal", "the group's state cannot be used")
        }
    }
}
