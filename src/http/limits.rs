//! How often one address may do what needs no token yet.

use std::{fmt, sync::Arc};

use actix_web::{HttpRequest, web};

use super::{CallerAddress, Problem, policy::Policy};
use crate::{
    config::AddressLimits,
    domain::{Clock, Drawn, Quota},
    hot::{Budgets, Spent},
    metrics,
};

/// What is counted by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// A registration.
    Register,
    /// A challenge, or an answer to one.
    Login,
    /// A refresh.
    Refresh,
}

/// The budgets of addresses, over all nodes.
pub struct AddressBudgets {
    /// Where they are kept.
    pub budgets: Arc<Budgets>,
    /// How large they are.
    pub limits: AddressLimits,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl AddressBudgets {
    /// Lets it be known which limits are counted.
    pub fn count_from_zero() {
        for name in ["register", "login", "refresh"] {
            metrics::limit_tripped(name, "network", 0);
        }
    }

    /// Counts the act to the address's network.
    ///
    /// # Errors
    /// 429 `rate-limited` past the act's budget, which refills evenly within a minute.
    pub async fn admit(&self, address: &CallerAddress, act: Act) -> Result<(), Problem> {
        let (what, name, acts) = match act {
            Act::Register => ("register by address", "register", self.limits.registrations),
            Act::Login => ("login by address", "login", self.limits.logins),
            Act::Refresh => ("refresh by address", "refresh", self.limits.refreshes),
        };
        let quota = Quota::per_minute(acts);
        match self.budgets.draw(what, &[&address.network().0], quota, self.clock.now()).await {
            Drawn::Taken => Ok(()),
            Drawn::Empty(wait) => {
                metrics::limit_tripped(name, "network", 1);
                let detail = "too many requests from this network; repeat the request later";
                let spent = Spent { drawn: Drawn::Empty(wait), left: 0 };
                let policy = Policy::new(name, "network", quota).with(spent);
                Err(Problem::rate_limited(wait, detail).under(policy))
            }
        }
    }
}

/// A request that is to be counted.
pub(super) struct Gate {
    budgets: web::Data<AddressBudgets>,
    address: CallerAddress,
    act: Act,
}

impl Gate {
    /// The gate of a request.
    ///
    /// # Errors
    /// 500 when the relay is not set up.
    pub(super) fn of(request: &HttpRequest, act: Act) -> Result<Self, Problem> {
        let missing = || Problem::new(500, "internal", "the relay is not set up");
        let budgets = request.app_data::<web::Data<AddressBudgets>>().cloned().ok_or_else(missing)?;
        let address = CallerAddress::of(request).ok_or_else(missing)?;
        Ok(Self { budgets, address, act })
    }

    /// Counts the request.
    ///
    /// # Errors
    /// As [`AddressBudgets::admit`].
    pub(super) async fn pass(self) -> Result<(), Problem> {
        self.budgets.admit(&self.address, self.act).await
    }
}

impl fmt::Debug for AddressBudgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressBudgets").field("limits", &self.limits).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use actix_web::ResponseError as _;

    use super::*;
    use crate::{
        domain::{ManualClock, Timestamp},
        hot::{
            Sessions,
            local::{LocalHot, LocalHub},
        },
    };

    fn budgets(clock: &Arc<ManualClock>) -> AddressBudgets {
        let engine = LocalHot::join(&LocalHub::new(), Arc::new(Sessions::default()));
        AddressBudgets {
            budgets: Arc::new(Budgets::new(Arc::new(engine), [1; 32])),
            limits: AddressLimits { registrations: 2, logins: 7, refreshes: 120 },
            clock: clock.clone(),
        }
    }

    fn address(text: &str) -> CallerAddress {
        CallerAddress::from(text.parse::<IpAddr>().unwrap())
    }

    fn clock() -> Arc<ManualClock> {
        Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)))
    }

    async fn admitted(budgets: &AddressBudgets, from: &str, act: Act) -> u32 {
        let mut admitted = 0;
        while budgets.admit(&address(from), act).await.is_ok() {
            admitted += 1;
        }
        admitted
    }

    #[tokio::test]
    async fn each_act_and_each_network_has_a_budget_of_its_own() {
        let budgets = budgets(&clock());
        assert_eq!(admitted(&budgets, "2001:db8::1", Act::Register).await, 2);
        assert_eq!(admitted(&budgets, "2001:db8::2", Act::Register).await, 0, "the same 64 bits");
        assert_eq!(admitted(&budgets, "2001:db8::2", Act::Login).await, 7);
        assert_eq!(admitted(&budgets, "2001:db8::2", Act::Refresh).await, 120);
        assert_eq!(admitted(&budgets, "2001:db8:0:1::1", Act::Register).await, 2);
        assert_eq!(admitted(&budgets, "192.0.2.1", Act::Register).await, 2);
        assert_eq!(admitted(&budgets, "::ffff:192.0.2.1", Act::Register).await, 0);
        assert_eq!(admitted(&budgets, "192.0.2.2", Act::Register).await, 2);
    }

    #[tokio::test]
    async fn a_refusal_says_after_how_many_whole_seconds_there_is_a_place() {
        let clock = clock();
        let budgets = budgets(&clock);
        let caller = address("192.0.2.1");
        for (act, acts, seconds) in [(Act::Register, 2, 30), (Act::Login, 7, 9), (Act::Refresh, 120, 1)] {
            assert_eq!(admitted(&budgets, "192.0.2.1", act).await, acts);
            let problem = budgets.admit(&caller, act).await.unwrap_err();
            assert_eq!(problem.status_code(), 429);
            assert_eq!((problem.code(), problem.retry_after()), ("rate-limited", Some(seconds)));
            clock.advance(Duration::from_secs(seconds));
            assert!(budgets.admit(&caller, act).await.is_ok(), "{act:?}");
        }
    }
}
