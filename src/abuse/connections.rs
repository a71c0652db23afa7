//! How many sockets a network, and a user, may have open at the same time, over all nodes.

use std::sync::Arc;

use uuid::Uuid;

use crate::{
    config::RateLimits,
    domain::{BudgetKey, Caller, Network},
    hot::{Budgets, Crowds, Hold},
    metrics,
};

/// The open sockets of networks and users.
pub struct Connections {
    /// Where they are counted.
    pub crowds: Arc<Crowds>,
    /// What names them.
    pub budgets: Arc<Budgets>,
    /// How many there may be.
    pub limits: RateLimits,
}

/// A socket's places, until it is dropped.
pub struct Connection {
    _of_network: Option<Hold>,
    _of_user: Hold,
}

/// That there are as many sockets as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Of the network.
    Network,
    /// Of the user.
    User,
}

impl Full {
    /// Whose sockets they are, for figures.
    const fn word(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::User => "user",
        }
    }
}

const LIMIT: &str = "connections";

impl Connections {
    /// Lets it be known which limits are counted.
    pub fn count_from_zero() {
        for full in [Full::Network, Full::User] {
            metrics::limit_tripped(LIMIT, full.word(), 0);
        }
    }

    /// Takes the places of a socket that is to be opened by a device. A device has one place, however many of its sockets
    /// are still ending and on whichever nodes, so that it comes back although the node of its last socket was killed.
    ///
    /// # Errors
    /// Of whom there are too many; no place is taken then.
    pub async fn open(&self, network: Option<Network>, caller: &Caller) -> Result<Connection, Full> {
        let of_network = match network {
            Some(network) => {
                let crowd = self.budgets.name("sockets of a network", &[&network.0]);
                let most = self.limits.connections_per_address;
                Some(self.hold(crowd, caller, most).await.ok_or_else(|| tripped(Full::Network))?)
            }
            None => None,
        };
        let crowd = self.budgets.name("sockets of a user", &[caller.user_id.uuid().as_bytes()]);
        let of_user = self.hold(crowd, caller, self.limits.connections_per_user).await;
        let of_user = of_user.ok_or_else(|| tripped(Full::User))?;
        Ok(Connection { _of_network: of_network, _of_user: of_user })
    }

    async fn hold(&self, crowd: BudgetKey, caller: &Caller, most: u32) -> Option<Hold> {
        // By the crowd too, so that nobody who reads hot state sees the same device in two of them.
        let of = [crowd.0.as_slice(), &caller.device_no.0.to_be_bytes()];
        let holder = Uuid::from_bytes(self.budgets.name("socket of a device", &of).0);
        self.crowds.hold(crowd, holder, most).await
    }
}

fn tripped(full: Full) -> Full {
    metrics::limit_tripped(LIMIT, full.word(), 1);
    full
}
