//! How many sockets a network, and a user, may have open at the same time, over all nodes.

use std::sync::Arc;

use crate::{
    config::RateLimits,
    domain::{Network, UserId},
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

    /// Takes the places of a socket that is to be opened.
    ///
    /// # Errors
    /// Of whom there are too many; no place is taken then.
    pub async fn open(&self, network: Option<Network>, user: UserId) -> Result<Connection, Full> {
        let of_network = match network {
            Some(network) => {
                let crowd = self.budgets.name("sockets of a network", &[&network.0]);
                let hold = self.crowds.hold(crowd, self.limits.connections_per_address).await;
                Some(hold.ok_or(Full::Network).inspect_err(|full| tripped(*full))?)
            }
            None => None,
        };
        let crowd = self.budgets.name("sockets of a user", &[user.uuid().as_bytes()]);
        let of_user = self.crowds.hold(crowd, self.limits.connections_per_user).await;
        let of_user = of_user.ok_or(Full::User).inspect_err(|full| tripped(*full))?;
        Ok(Connection { _of_network: of_network, _of_user: of_user })
    }
}

fn tripped(full: Full) {
    metrics::limit_tripped(LIMIT, full.word(), 1);
}
