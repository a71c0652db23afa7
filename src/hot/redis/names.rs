//! What this relay's channels and keys are called in Redis.

use uuid::Uuid;

use super::script::hex;
use crate::domain::{BudgetKey, DeviceNo, GroupId};

/// What a channel is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Device(DeviceNo),
    Group(GroupId),
}

/// Names under one prefix, so that relays may share a Redis.
#[derive(Debug, Clone)]
pub(super) struct Names {
    devices: String,
    groups: String,
    queues: String,
    budgets: String,
    crowds: String,
    states: String,
}

impl Names {
    pub(super) fn under(prefix: &str) -> Self {
        Self {
            devices: format!("{prefix}:d:"),
            groups: format!("{prefix}:g:"),
            queues: format!("{prefix}:q:"),
            budgets: format!("{prefix}:budget:"),
            crowds: format!("{prefix}:crowd:"),
            states: format!("{prefix}:mls:"),
        }
    }

    /// The channel of a device's events, or of a group's entries.
    pub(super) fn channel(&self, topic: Topic) -> String {
        match topic {
            Topic::Device(device) => format!("{}{}", self.devices, device.0),
            Topic::Group(group) => format!("{}{}", self.groups, group.uuid().simple()),
        }
    }

    /// The stream of a device's offline queue.
    pub(super) fn queue(&self, device: DeviceNo) -> String {
        format!("{}{}", self.queues, device.0)
    }

    /// The counter of a budget.
    pub(super) fn budget(&self, budget: BudgetKey) -> String {
        format!("{}{}", self.budgets, hex(&budget.0))
    }

    /// Who holds a place in a crowd.
    pub(super) fn crowd(&self, crowd: BudgetKey) -> String {
        format!("{}{}", self.crowds, hex(&crowd.0))
    }

    /// The public state of a group.
    pub(super) fn state(&self, group: GroupId) -> String {
        format!("{}{}", self.states, group.uuid().simple())
    }

    /// What the names of all keys begin with: of queues, budgets, crowds and states.
    pub(super) fn families(&self) -> [&str; 4] {
        [&self.queues, &self.budgets, &self.crowds, &self.states]
    }

    /// What a channel is for, if it is one of ours.
    pub(super) fn topic(&self, channel: &[u8]) -> Option<Topic> {
        let channel = std::str::from_utf8(channel).ok()?;
        if let Some(number) = channel.strip_prefix(&self.devices) {
            return number.parse().ok().map(|number| Topic::Device(DeviceNo(number)));
        }
        let group = channel.strip_prefix(&self.groups)?;
        Uuid::try_parse(group).ok().map(|group| Topic::Group(GroupId::new(group)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_names_what_it_is_for_and_no_other_relays_channel_does() {
        let names = Names::under("a");
        for topic in [Topic::Device(DeviceNo(42)), Topic::Group(GroupId::new(Uuid::from_u128(42)))] {
            assert_eq!(names.topic(names.channel(topic).as_bytes()), Some(topic));
        }
        for foreign in ["a:d:", "a:d:x", "a:q:42", "b:d:42", "a:g:42", "a:g:", ""] {
            assert_eq!(names.topic(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
