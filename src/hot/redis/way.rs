//! The way to Redis, whichever kind it is.

use std::{
    sync::{Arc, Once},
    time::Duration,
};

use redis::{Client, ErrorKind, FromRedisValue, Pipeline, RedisResult, ServerErrorKind, Value};
use tokio::time::timeout;

use super::{
    cluster::Cluster,
    fault::Fault,
    link::{DEADLINE, Link},
    place::{Node, Place},
};

/// How long an act on a cluster may take: to connect, to be answered, and to be sent elsewhere.
const PATIENCE: Duration = DEADLINE.saturating_mul(2);

/// Carries commands to one server or to a cluster.
pub(super) enum Way {
    Server(Server),
    Cluster(Cluster),
}

pub(super) struct Server {
    link: Link,
    /// Done when it has turned out to be a node of a cluster, which nobody said.
    surprised: Once,
}

/// A server where events may be heard.
pub(super) struct Post {
    pub(super) client: Client,
    /// Which node of a cluster it is.
    pub(super) node: Option<Node>,
}

impl Way {
    /// The way to a place. In a cluster publishers and subscribers meet at the owner of `meeting_slot`.
    pub(super) fn to(place: Place, meeting_slot: u16) -> Arc<Self> {
        Arc::new(match place {
            Place::Server(client) => Self::Server(Server { link: Link::new(client), surprised: Once::new() }),
            Place::Cluster(seeds) => Self::Cluster(Cluster::new(seeds, meeting_slot)),
        })
    }

    /// Runs commands that each name one key and gives each one's own answer. The outer error means that what was done
    /// is unknown.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        pipeline: &mut Pipeline,
    ) -> Result<Vec<Result<T, Fault>>, Fault> {
        match self {
            Self::Server(server) => Ok(read(server.run(pipeline).await?)),
            Self::Cluster(cluster) => Ok(read(in_time(cluster.run(pipeline)).await?)),
        }
    }

    /// As [`Way::run`], for commands that reach everybody from any node.
    pub(super) async fn publish<T: FromRedisValue>(
        &self,
        pipeline: &mut Pipeline,
    ) -> Result<Vec<Result<T, Fault>>, Fault> {
        match self {
            Self::Server(_) => self.run(pipeline).await,
            Self::Cluster(cluster) => Ok(read(in_time(cluster.run_anywhere(pipeline)).await?)),
        }
    }

    /// Asks whether Redis is reachable: every master of a cluster.
    pub(super) async fn check(&self) -> Result<(), Fault> {
        match self {
            Self::Server(server) => server.link.check().await,
            Self::Cluster(cluster) => in_time(cluster.check()).await,
        }
    }

    /// Where to listen, the best first.
    pub(super) async fn posts(&self) -> Result<Vec<Post>, Fault> {
        match self {
            Self::Server(server) => Ok(vec![Post { client: server.link.client().clone(), node: None }]),
            Self::Cluster(cluster) => {
                let nodes = in_time(cluster.posts()).await?.into_iter();
                nodes.map(|node| Ok(Post { client: cluster.client(&node)?, node: Some(node) })).collect()
            }
        }
    }

    /// Whether who listens at a node should go to another one.
    pub(super) async fn has_better_post(&self, node: Option<&Node>) -> bool {
        match (self, node) {
            (Self::Cluster(cluster), Some(node)) => {
                timeout(DEADLINE, cluster.has_better_post(node)).await.unwrap_or(false)
            }
            _ => false,
        }
    }

    /// Fails every act from now on, and lets the connections go.
    pub(super) fn close(&self) {
        match self {
            Self::Server(server) => server.link.close(),
            Self::Cluster(cluster) => cluster.close(),
        }
    }
}

impl Server {
    async fn run(&self, pipeline: &mut Pipeline) -> Result<Vec<RedisResult<Value>>, Fault> {
        let answers = self.link.run(pipeline).await?;
        let moved = ErrorKind::Server(ServerErrorKind::Moved);
        if answers.iter().any(|answer| answer.as_ref().is_err_and(|error| error.kind() == moved)) {
            self.surprised.call_once(|| {
                tracing::error!(
                    "redis is a cluster, and REDIS_URL must say so: redis+cluster://host:port,host:port"
                );
            });
        }
        Ok(answers)
    }
}

async fn in_time<T>(act: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    timeout(PATIENCE, act).await.unwrap_or(Err(Fault::Deadline))
}

fn read<T: FromRedisValue, E: Into<Fault>>(answers: Vec<Result<Value, E>>) -> Vec<Result<T, Fault>> {
    let read = |answer: Result<Value, E>| Ok(T::from_redis_value(answer.map_err(Into::into)?)?);
    answers.into_iter().map(read).collect()
}
