//! How many connections each address network has open in this process.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ipnet::IpNet;

use crate::{config::is_within, domain::Network, metrics};

/// The limit's name in figures. Sockets have another one, which counts them over all nodes.
const LIMIT: &str = "tcp-connections";

/// The open connections of each network.
pub(super) struct Peers {
    /// Of one network; 0 for any number.
    most: usize,
    /// Networks whose connections carry many clients, and are not counted.
    proxies: Vec<IpNet>,
    open: Mutex<HashMap<Network, usize>>,
}

/// A connection's place among those of its network, until it is dropped.
pub(super) struct Place(Option<(Arc<Peers>, Network)>);

impl Peers {
    pub(super) fn new(most: usize, proxies: Vec<IpNet>) -> Arc<Self> {
        metrics::limit_tripped(LIMIT, "network", 0);
        Arc::new(Self { most, proxies, open: Mutex::default() })
    }

    /// Which network counts for an address; none for a proxy.
    pub(super) fn counted(&self, address: IpAddr) -> Option<Network> {
        let address = address.to_canonical();
        (!is_within(address, &self.proxies)).then(|| Network::of(address))
    }

    /// A place for a connection from this address; none when its network has as many as it may.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let counted = self.counted(address).filter(|_| self.most > 0);
        let Some(network) = counted else { return Some(Place(None)) };
        let mut counts = self.counts();
        let open = counts.entry(network).or_default();
        if *open >= self.most {
            metrics::limit_tripped(LIMIT, "network", 1);
            return None;
        }
        *open += 1;
        Some(Place(Some((Arc::clone(self), network))))
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Network, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some((peers, network)) = &self.0 else { return };
        let mut counts = peers.counts();
        if let Some(open) = counts.get_mut(network) {
            *open -= 1;
            if *open == 0 {
                counts.remove(network);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_as_many_places_as_it_may_and_they_come_back() {
        let peers = Peers::new(2, vec!["192.0.2.0/24".parse().unwrap()]);
        let admit = |text| peers.admit(address(text));
        let kept = [admit("2001:db8::1"), admit("2001:db8::2")];
        assert!(kept.iter().all(Option::is_some) && admit("2001:db8::3").is_none(), "the same 64 bits");
        let other = [admit("2001:db8:0:1::1"), admit("198.51.100.1"), admit("::ffff:198.51.100.1")];
        assert!(other.iter().all(Option::is_some) && admit("198.51.100.1").is_none(), "one address");
        drop(kept);
        assert!(admit("2001:db8::3").is_some());
        drop(other);
        assert!(peers.counts().is_empty(), "who is gone is forgotten");
        let proxied: Vec<_> = (0..5).map(|_| admit("::ffff:192.0.2.1")).collect();
        assert!(proxied.iter().all(Option::is_some) && peers.counts().is_empty(), "a proxy has many clients");
    }

    #[test]
    fn nothing_is_no_limit() {
        let peers = Peers::new(0, Vec::new());
        let places: Vec<_> = (0..5).map(|_| peers.admit(address("192.0.2.1"))).collect();
        assert!(places.iter().all(Option::is_some));
    }
}
