//! Who may come in by an external commit (RFC 9420 §12.4.3.2).

use super::{
    GroupAt, Refusal, Sender,
    roster::{Place, Roster},
};
use crate::domain::ExternalJoin;

/// A device that may come in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admitted<'a> {
    /// The leaf that must go when it comes: its own, or that of an earlier incarnation under the same name. A name stands in
    /// a tree once.
    pub(super) former: Option<Place<'a>>,
    /// Whether only the join token lets it in.
    pub(super) by_token: bool,
}

/// Whether the policy of the group lets this device in. A device that leaves has no part in the group any more.
pub(super) fn admit<'a>(
    group: &GroupAt<'_>,
    roster: &Roster<'a>,
    sender: &Sender<'_>,
) -> Result<Admitted<'a>, Refusal> {
    let caller = sender.caller;
    let has_leaf = roster.of(caller.device_no).is_some_and(|place| !place.device.leaving);
    let is_sibling = roster
        .member(caller.user_id)
        .is_some_and(|member| member.devices.iter().any(|device| !device.leaving));
    let (may, by_token) = match group.external_join {
        ExternalJoin::None => (false, false),
        ExternalJoin::Resync => (has_leaf, false),
        ExternalJoin::Siblings => (has_leaf || is_sibling, false),
        ExternalJoin::Token => (has_leaf || is_sibling || sender.join_token, !has_leaf && !is_sibling),
    };
    if !may {
        return Err(Refusal::NotFound);
    }
    let former = roster
        .places()
        .find(|place| place.member.user_id == caller.user_id && place.device.device_id == caller.device_id);
    Ok(Admitted { former, by_token })
}
