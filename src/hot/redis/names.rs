//! What this relay's channels and keys are called in Redis.

use super::budget::hex;
use crate::domain::{BudgetKey, DeviceNo};

/// Names under one prefix, so that relays may share a Redis.
#[derive(Debug, Clone)]
pub(super) struct Names {
    channels: String,
    queues: String,
    budgets: String,
}

impl Names {
    pub(super) fn under(prefix: &str) -> Self {
        Self {
            channels: format!("{prefix}:d:"),
            queues: format!("{prefix}:q:"),
            budgets: format!("{prefix}:budget:"),
        }
    }

    /// The channel of a device's events.
    pub(super) fn channel(&self, device: DeviceNo) -> String {
        format!("{}{}", self.channels, device.0)
    }

    /// The stream of a device's offline queue.
    pub(super) fn queue(&self, device: DeviceNo) -> String {
        format!("{}{}", self.queues, device.0)
    }

    /// The counter of a budget.
    pub(super) fn budget(&self, budget: BudgetKey) -> String {
        format!("{}{}", self.budgets, hex(&budget.0))
    }

    /// What the names of all keys begin with, of queues and of budgets.
    pub(super) fn families(&self) -> [&str; 2] {
        [&self.queues, &self.budgets]
    }

    /// The device that a channel is for, if it is one of ours.
    pub(super) fn device(&self, channel: &[u8]) -> Option<DeviceNo> {
        let number = channel.strip_prefix(self.channels.as_bytes())?;
        std::str::from_utf8(number).ok()?.parse().ok().map(DeviceNo)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_names_its_device_and_no_other_relays_channel_does() {
        let names = Names::under("a");
        assert_eq!(names.device(names.channel(DeviceNo(42)).as_bytes()), Some(DeviceNo(42)));
        for foreign in ["a:d:", "a:d:x", "a:q:42", "b:d:42", ""] {
            assert_eq!(names.device(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
