//! How often a device, and an address network, may do what: budgets by verb, open sockets, and blocks for those whom
//! refusals do not stop. proto-docs/limits.md tells it to clients.

mod blocks;
mod connections;
mod verb;

use std::sync::Arc;

pub use blocks::Blocks;
pub use connections::{Connection, Connections, Full};
pub use verb::Verb;

use crate::{
    config::RateLimits,
    domain::{BudgetKey, Clock, DeviceNo, Drawn, Network, Quota},
    hot::{Budgets, Spent},
    metrics,
};

/// What stands before every socket.
pub struct Doors {
    /// Budgets by verb.
    pub paces: Arc<Paces>,
    /// Who is shut out.
    pub blocks: Arc<Blocks>,
    /// How many are open.
    pub connections: Connections,
}

/// The budgets of devices and networks for each verb, over all nodes.
pub struct Paces {
    /// Where they are kept.
    pub budgets: Arc<Budgets>,
    /// How large they are.
    pub limits: RateLimits,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// Who pays for an act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payer {
    /// A device, wherever it calls from.
    Device(DeviceNo),
    /// Everybody who calls from a network.
    Network(Network),
}

/// A payer's budget for a verb.
#[derive(Debug, Clone, Copy)]
pub struct Purse {
    /// The verb.
    pub verb: Verb,
    /// Who pays.
    pub payer: Payer,
    /// How large the budget is.
    pub quota: Quota,
    budget: BudgetKey,
}

impl Purse {
    /// Whether the operator set no limit: then nothing is counted.
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.quota.acts == 0
    }
}

impl Paces {
    /// Lets it be known which limits are counted.
    pub fn count_from_zero() {
        for verb in Verb::ALL {
            metrics::limit_tripped(verb.name(), "device", 0);
            metrics::limit_tripped(verb.name(), "network", 0);
        }
    }

    /// The payer's budget for a verb.
    #[must_use]
    pub fn purse(&self, verb: Verb, payer: Payer) -> Purse {
        let of_device = self.acts(verb);
        match payer {
            Payer::Device(device) => {
                let budget =
                    self.budgets.name("pace of a device", &[verb.name().as_bytes(), &device.0.to_be_bytes()]);
                Purse { verb, payer, quota: Quota::per_minute(of_device), budget }
            }
            Payer::Network(network) => {
                let budget = self.budgets.name("pace of a network", &[verb.name().as_bytes(), &network.0]);
                let acts = of_device.saturating_mul(self.limits.devices_per_address);
                Purse { verb, payer, quota: Quota::per_minute(acts), budget }
            }
        }
    }

    /// Counts an act, if there is a limit.
    pub async fn spend(&self, purse: &Purse) -> Spent {
        if purse.is_unlimited() {
            return Spent { drawn: Drawn::Taken, left: u32::MAX };
        }
        let spent = self.budgets.spend(purse.budget, purse.quota, self.clock.now()).await;
        if spent.drawn != Drawn::Taken {
            metrics::limit_tripped(purse.verb.name(), purse.payer.word(), 1);
        }
        spent
    }

    /// Counts an act if that can be done at once. False, and nothing is counted, when [`Paces::spend`] must be asked.
    #[must_use]
    pub fn spend_here(&self, purse: &Purse) -> bool {
        if purse.is_unlimited() {
            return true;
        }
        let spent = self.budgets.spend_here(purse.budget, purse.quota, self.clock.now());
        spent.is_some_and(|spent| spent.drawn == Drawn::Taken)
    }

    const fn acts(&self, verb: Verb) -> u32 {
        match verb {
            Verb::Message => self.limits.messages,
            Verb::Ack => self.limits.acks,
            Verb::Read | Verb::Probe => self.limits.reads,
            Verb::Keys => self.limits.keys,
            Verb::Group => self.limits.groups,
            Verb::Join => self.limits.joins,
            Verb::Account => self.limits.account,
            Verb::Open => self.limits.openings,
        }
    }
}

impl Payer {
    /// What kind of payer it is, in headers and figures.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Device(_) => "device",
            Self::Network(_) => "network",
        }
    }
}
