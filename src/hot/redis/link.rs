//! The one connection for commands to a server: made when first needed, made anew after a failure, left alone in between.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value,
    aio::MultiplexedConnection,
};
use tokio::time::Instant;

use super::fault::{Fault, jittered};

/// How long a connection may take to be made, and how long an answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(1);

/// After a failure acts fail at once for at most this long and at least half of it.
pub(super) const REST: Duration = Duration::from_secs(1);

/// How many commands may wait to be written; more wait with their callers.
const WAITING: usize = 256;

/// The settings of both of the engine's connections.
pub(super) fn config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(Some(DEADLINE))
        .set_pipeline_buffer_size(WAITING)
}

/// Carries pipelines to a server. While it is away an act fails at once, but for one in each rest that tries anew.
pub(super) struct Link {
    client: Client,
    config: AsyncConnectionConfig,
    state: Mutex<State>,
    connecting: tokio::sync::Mutex<u64>,
}

enum State {
    Idle,
    Connected(Lease),
    Resting { until: Instant },
    Closed,
}

/// A connection, numbered so that an act that fails late does not drop its successor.
#[derive(Clone)]
struct Lease {
    number: u64,
    connection: MultiplexedConnection,
}

impl Link {
    pub(super) fn new(client: Client) -> Self {
        Self {
            client,
            config: config(),
            state: Mutex::new(State::Idle),
            connecting: tokio::sync::Mutex::new(0),
        }
    }

    /// The client that its connections are made by.
    pub(super) const fn client(&self) -> &Client {
        &self.client
    }

    /// Runs a pipeline and gives each command's own answer. The outer error means that what was done is unknown, unless
    /// it says that nothing was sent.
    pub(super) async fn run(&self, pipeline: &mut Pipeline) -> Result<Vec<RedisResult<Value>>, Fault> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut lease = self.lease().await?;
        let answers: RedisResult<Vec<RedisResult<Value>>> =
            pipeline.ignore_errors().query_async(&mut lease.connection).await;
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                self.rest(lease.number);
                return Err(error.into());
            }
        };
        if answers.iter().any(|answer| answer.as_ref().is_err_and(is_wrong_server)) {
            self.rest(lease.number);
        }
        Ok(answers)
    }

    /// Asks the server whether it is reachable.
    pub(super) async fn check(&self) -> Result<(), Fault> {
        let mut ping = Pipeline::with_capacity(1);
        ping.cmd("PING");
        for answer in self.run(&mut ping).await? {
            answer?;
        }
        Ok(())
    }

    /// Fails every act from now on, and lets the connection go.
    pub(super) fn close(&self) {
        *self.state() = State::Closed;
    }

    async fn lease(&self) -> Result<Lease, Fault> {
        if let Some(lease) = self.present_lease()? {
            return Ok(lease);
        }
        let mut made = self.connecting.lock().await;
        if let Some(lease) = self.present_lease()? {
            return Ok(lease);
        }
        let connection = match self.client.get_multiplexed_async_connection_with_config(&self.config).await {
            Ok(connection) => connection,
            Err(error) => {
                self.begin_rest();
                return Err(Fault::Unreachable(error));
            }
        };
        *made += 1;
        self.install(Lease { number: *made, connection })
    }

    fn present_lease(&self) -> Result<Option<Lease>, Fault> {
        match &*self.state() {
            State::Connected(lease) => Ok(Some(lease.clone())),
            State::Resting { until } if Instant::now() < *until => Err(Fault::Resting),
            State::Idle | State::Resting { .. } => Ok(None),
            State::Closed => Err(Fault::Closed),
        }
    }

    fn install(&self, lease: Lease) -> Result<Lease, Fault> {
        let mut state = self.state();
        if matches!(*state, State::Closed) {
            return Err(Fault::Closed);
        }
        *state = State::Connected(lease.clone());
        Ok(lease)
    }

    /// Drops the numbered connection, unless another one took its place.
    fn rest(&self, number: u64) {
        let is_current = matches!(&*self.state(), State::Connected(lease) if lease.number == number);
        if is_current {
            self.begin_rest();
        }
    }

    fn begin_rest(&self) {
        let mut state = self.state();
        if !matches!(*state, State::Closed) {
            *state = State::Resting { until: Instant::now() + jittered(REST) };
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a server that answers so is one to part from: a new connection may lead to the one that took over.
fn is_wrong_server(error: &RedisError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Server(
            ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown | ServerErrorKind::BusyLoading
        )
    )
}
