//! Where `REDIS_URL` says that Redis is.

use std::sync::Arc;

use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, ProtocolVersion, RedisError,
    RedisResult,
};
use secrecy::{ExposeSecret, SecretString};

/// How the URL of a cluster begins. What a server is by itself is never guessed.
const CLUSTER: &str = "redis+cluster://";

/// One server, or a cluster that some of its nodes lead to.
pub(super) enum Place {
    Server(Client),
    Cluster(Seeds),
}

/// The nodes that are asked first, and how to speak to any node.
pub(super) struct Seeds {
    pub(super) nodes: Vec<Node>,
    speech: ConnectionInfo,
}

/// The address of a cluster's node, as nodes tell it to clients.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Node {
    pub(super) host: Arc<str>,
    pub(super) port: u16,
}

impl Place {
    /// Reads `redis://…`, or `redis+cluster://user:password@host:port,host:port`.
    pub(super) fn of(url: &SecretString) -> RedisResult<Self> {
        match url.expose_secret().strip_prefix(CLUSTER) {
            None => Ok(Self::Server(Client::open(pushing(url.expose_secret().into_connection_info()?))?)),
            Some(seeds) => Ok(Self::Cluster(Seeds::read(seeds)?)),
        }
    }
}

impl Seeds {
    fn read(text: &str) -> RedisResult<Self> {
        let (login, hosts) = text.rsplit_once('@').map_or(("", text), |(login, hosts)| (login, hosts));
        let (mut nodes, mut speech) = (Vec::new(), None);
        for host in hosts.split(',') {
            // A cluster has one database, and no node a path.
            if host.is_empty() || host.contains(['/', '?', '#']) {
                return Err(refused("a seed is not host:port"));
            }
            let info = format!("redis://{login}@{host}").into_connection_info()?;
            let ConnectionAddr::Tcp(host, port) = info.addr() else {
                return Err(refused("a seed is not host:port"));
            };
            nodes.push(Node { host: host.as_str().into(), port: *port });
            speech.get_or_insert(pushing(info));
        }
        let speech = speech.ok_or_else(|| refused("a cluster needs a seed"))?;
        Ok(Self { nodes, speech })
    }

    /// A client for any node of the cluster.
    pub(super) fn client(&self, node: &Node) -> RedisResult<Client> {
        let address = ConnectionAddr::Tcp(node.host.to_string(), node.port);
        Client::open(self.speech.clone().set_addr(address))
    }
}

impl Node {
    /// Reads `host:port` as `teller` told it; without a host it means its own.
    pub(super) fn told(text: &str, teller: &Self) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let host = if host.is_empty() { Arc::clone(&teller.host) } else { host.into() };
        Some(Self { host, port: port.parse().ok()? })
    }
}

/// Pushes come with RESP3 only.
fn pushing(info: ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    info.set_redis_settings(settings)
}

fn refused(why: &'static str) -> RedisError {
    RedisError::from((ErrorKind::InvalidClientConfig, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: &str, port: u16) -> Node {
        Node { host: host.into(), port }
    }

    #[test]
    fn a_cluster_is_declared_and_names_its_seeds() {
        let url = SecretString::from("redis+cluster://user:p%40ss@a.example:7000,[::1]:7001,10.0.0.3");
        let Ok(Place::Cluster(seeds)) = Place::of(&url) else { panic!("no cluster") };
        assert_eq!(seeds.nodes, [node("a.example", 7000), node("::1", 7001), node("10.0.0.3", 6379)]);
        assert_eq!(seeds.speech.redis_settings().password(), Some("p@ss"));
        assert_eq!(seeds.speech.redis_settings().username(), Some("user"));
        assert!(matches!(Place::of(&SecretString::from("redis://a.example")), Ok(Place::Server(_))));
    }

    #[test]
    fn what_is_no_list_of_seeds_is_refused() {
        for bad in ["", ",", "a,", "a:x", "a/1", "a,b/0", "u:p@", "a?b", "a:99999", "redis://a"] {
            assert!(Place::of(&SecretString::from(format!("{CLUSTER}{bad}"))).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_node_without_a_host_is_on_the_host_that_told_of_it() {
        let teller = node("10.0.0.1", 7000);
        assert_eq!(Node::told(":7001", &teller), Some(node("10.0.0.1", 7001)));
        assert_eq!(Node::told("b.example:7001", &teller), Some(node("b.example", 7001)));
        assert_eq!(Node::told("::1:7001", &teller), Some(node("::1", 7001)));
        assert_eq!(Node::told("b.example", &teller), None);
    }
}
