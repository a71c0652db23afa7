//! The features, built from the engines and the settings.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use actix_web::web;
use tokio_util::sync::CancellationToken;

use super::secrets::{Secrets, key_for};
use crate::{
    abuse::{Blocks, Connections, Doors, Paces},
    auth::{Admissions, Authority, Challenges, Logins, RefreshTokens},
    config::{AuthMode, Config, MasterSecret, RegistrationMode},
    domain::{Clock, ConversationKey, NetworkKeys, Quota},
    groups::{Checks, GroupRules, Groups},
    hot::{Budgets, Crowds, Switchboard},
    http::{AddressBudgets, service::Health},
    keys::{FetchRules, Keys, PackageRules, RegistrationRules},
    messages::{Messages, SendRules},
    queue::{Queue, routes::SocketFloor},
    store::Store,
};

/// By how much longer than a key package's a founder's leaf may live: for clocks that are wrong at either end.
const SKEW: Duration = Duration::from_hours(2);

/// What networks are called where blocks are kept.
pub(super) fn network_keys(master: &MasterSecret) -> NetworkKeys {
    NetworkKeys::new(key_for(master, b"blocked networks"))
}

/// What every feature stands on.
pub(super) struct Ground {
    pub(super) store: Arc<dyn Store>,
    pub(super) switchboard: Arc<Switchboard>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) authority: Arc<Authority>,
    pub(super) admissions: Option<Arc<Admissions>>,
    pub(super) secrets: Secrets,
}

/// What every HTTP worker shares.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) health: web::Data<Health>,
    pub(super) floor: web::Data<SocketFloor>,
    pub(super) authority: web::Data<Authority>,
    pub(super) logins: web::Data<Logins>,
    pub(super) address_budgets: web::Data<AddressBudgets>,
    pub(super) paces: web::Data<Paces>,
    pub(super) blocks: web::Data<Blocks>,
    pub(super) crowds: Arc<Crowds>,
    pub(super) keys: web::Data<Keys>,
    pub(super) messages: web::Data<Messages>,
    pub(super) groups: web::Data<Groups>,
    pub(super) queue: web::Data<Queue>,
}

impl Parts {
    pub(super) fn new(config: &Config, ground: &Ground, stop_sockets: &CancellationToken) -> Self {
        let budget_key = ground.secrets.key_for(b"budgets");
        let budgets = Arc::new(Budgets::new(Arc::clone(ground.switchboard.engine()), budget_key));
        let (store, switchboard, clock) = ground.shared();
        let queue = Arc::new(Queue { store, switchboard, clock });
        let messages = Arc::new(ground.messages(config));
        let groups = Arc::new(ground.groups(config));
        let (store, switchboard, clock) = ground.shared();
        let (draining, started) = (AtomicBool::new(false), Instant::now());
        let reports = Arc::default();
        let health = Health { store, switchboard, clock, draining, started, reports };
        let crowds = Crowds::new(Arc::clone(ground.switchboard.engine()));
        let doors = ground.doors(config, &budgets, &crowds);
        let (paces, blocks) = (Arc::clone(&doors.paces), Arc::clone(&doors.blocks));
        let floor = SocketFloor::new(
            Arc::clone(&queue),
            Arc::clone(&messages),
            Arc::clone(&groups),
            Arc::clone(&ground.authority),
            doors,
            config,
            stop_sockets.clone(),
        );
        let address_budgets = AddressBudgets {
            budgets: Arc::clone(&budgets),
            limits: config.address_limits,
            clock: Arc::clone(&ground.clock),
        };
        Self {
            health: web::Data::new(health),
            floor: web::Data::new(floor),
            authority: Arc::clone(&ground.authority).into(),
            logins: web::Data::new(ground.logins(config, Arc::clone(&budgets))),
            address_budgets: web::Data::new(address_budgets),
            paces: paces.into(),
            blocks: blocks.into(),
            crowds,
            keys: web::Data::new(ground.keys(config, budgets)),
            messages: messages.into(),
            groups: groups.into(),
            queue: queue.into(),
        }
    }
}

impl Ground {
    fn shared(&self) -> (Arc<dyn Store>, Arc<Switchboard>, Arc<dyn Clock>) {
        (Arc::clone(&self.store), Arc::clone(&self.switchboard), Arc::clone(&self.clock))
    }

    fn doors(&self, config: &Config, budgets: &Arc<Budgets>, crowds: &Arc<Crowds>) -> Doors {
        Paces::count_from_zero();
        Connections::count_from_zero();
        AddressBudgets::count_from_zero();
        let (store, _, clock) = self.shared();
        let limits = config.rate_limits;
        let budgets = || Arc::clone(budgets);
        let names = network_keys(&self.secrets.master);
        let blocks = Blocks::new(store, budgets(), Arc::clone(&clock), names, limits.block_after);
        let paces = Paces { budgets: budgets(), limits, clock };
        let connections = Connections { crowds: Arc::clone(crowds), budgets: budgets(), limits };
        Doors { paces: Arc::new(paces), blocks, connections }
    }

    fn conversations(&self) -> ConversationKey {
        ConversationKey::new(self.secrets.key_for(b"conversation ids"))
    }

    fn messages(&self, config: &Config) -> Messages {
        let (store, switchboard, clock) = self.shared();
        let rules = SendRules {
            envelope: config.limits.envelope,
            send: config.limits.send,
            plaintext_guard: config.plaintext_guard,
            queue_life: config.queue_life,
        };
        Messages { store, switchboard, clock, rules, conversations: self.conversations() }
    }

    fn groups(&self, config: &Config) -> Groups {
        let (store, switchboard, clock) = self.shared();
        let rules = GroupRules {
            envelope: config.limits.envelope,
            plaintext_guard: config.plaintext_guard,
            max_members: config.store_limits.max_members,
            max_groups: config.store_limits.max_groups,
            invite_life: config.group_limits.invite_life,
            cipher_suites: config.mls.cipher_suites.clone(),
            longest_lifetime: config.mls.key_package_life + SKEW,
        };
        Groups { store, switchboard, clock, rules, checks: Checks::new(config.group_limits.concurrency) }
    }

    fn keys(&self, config: &Config, budgets: Arc<Budgets>) -> Keys {
        let (store, switchboard, clock) = self.shared();
        let registration = RegistrationRules {
            relay_name: config.relay_name.clone(),
            proof_required: config.auth_mode == AuthMode::Device,
            admission_required: config.registration == RegistrationMode::Token,
        };
        let fetch = FetchRules {
            pair: Quota::per_hour(config.fetch_limits.pair),
            half: Quota::per_hour(config.fetch_limits.target / 2),
            newcomers: Quota::per_hour(config.fetch_limits.newcomers),
            conversations: self.conversations(),
        };
        let packages = PackageRules {
            cipher_suites: config.mls.cipher_suites.clone(),
            max_lifetime: config.mls.key_package_life,
        };
        Keys {
            store,
            switchboard,
            clock,
            registration,
            fetch,
            packages,
            budgets,
            limits: config.store_limits,
        }
    }

    fn logins(&self, config: &Config, budgets: Arc<Budgets>) -> Logins {
        let (store, switchboard, clock) = self.shared();
        Logins {
            store,
            switchboard,
            clock,
            authority: Arc::clone(&self.authority),
            relay_name: config.relay_name.clone(),
            challenges: Challenges::new(self.secrets.key_for(b"challenges"), &config.relay_name),
            refresh_tokens: RefreshTokens::new(self.secrets.key_for(b"refresh tokens")),
            refresh_life: config.refresh_token_life,
            admissions: self.admissions.clone(),
            budgets,
        }
    }
}
