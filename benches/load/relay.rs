//! The relay as a child process with fresh data, which goes with it.

use std::{
    env,
    error::Error,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rand::Rng;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::{
    Outcome,
    limits::{OTHERS, PACES, PLENTY},
    options::{Engines, Options},
};

/// A running relay.
pub(crate) struct Relay {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// From its start until it listened.
    pub(crate) started_in: Duration,
    /// The database made for it.
    pub(crate) database: Option<ScratchDatabase>,
    /// Its data, and room for scratch files on the same disk.
    pub(crate) folder: TempDir,
    _output: BufReader<ChildStdout>,
}

impl Relay {
    /// Starts a relay on a free port and waits until it listens. A database that was made for it goes with a failure.
    pub(crate) async fn start(options: &Options) -> Outcome<Self> {
        let database = match options.engines {
            Engines::Embedded => None,
            Engines::Production => {
                Some(ScratchDatabase::create(&variable("RESTANTE_TEST_DATABASE_URL")?).await?)
            }
        };
        match (Self::launch(options, database.as_ref()), database) {
            (Ok(mut relay), database) => {
                relay.database = database;
                Ok(relay)
            }
            (Err(error), Some(database)) => {
                database.drop().await?;
                Err(error)
            }
            (Err(error), None) => Err(error),
        }
    }
    fn launch(options: &Options, database: Option<&ScratchDatabase>) -> Outcome<Self> {
        let folder = TempDir::new_in(env!("CARGO_TARGET_TMPDIR"))?;
        let program = options.relay.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_restante").into());
        let mut command = Command::new(program);
        let secret = || STANDARD.encode(rand::rng().random::<[u8; 32]>());
        command
            .current_dir(folder.path())
            .env_clear()
            .envs([("HOST", "127.0.0.1"), ("PORT", "0"), ("RUST_LOG", "warn"), ("DATA_DIR", "data")])
            .envs([("MASTER_SECRET", secret()), ("TOKEN_SIGNING_KEY", secret())])
            .envs(PACES.into_iter().chain(OTHERS).map(|name| (name, PLENTY)))
            .env("MAX_PREKEYS", "1000")
            .env("WORKERS", options.workers.to_string())
            .env("ACCESS_TOKEN_TTL_SECONDS", "86400")
            .stdout(Stdio::piped());
        if let Some(database) = database {
            command
                .env("DATABASE_URL", &database.url)
                .env("REDIS_URL", variable("RESTANTE_TEST_REDIS_URL")?)
                .env("REDIS_PREFIX", format!("bench-{}", Uuid::new_v4().simple()));
        }
        let begun = Instant::now();
        let mut child = command.spawn()?;
        let mut output = BufReader::new(child.stdout.take().ok_or("the relay's output cannot be read")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let address = line.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let address = address.ok_or("the relay did not start")?.parse()?;
        Ok(Self { child, address, started_in: begun.elapsed(), database: None, folder, _output: output })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the relay and drops its data.
    pub(crate) async fn stop(mut self) -> Outcome<()> {
        self.end()?;
        if let Some(database) = self.database.take() {
            database.drop().await?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Box<dyn Error + Send + Sync>> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("the relay could not be ended: {error}");
        }
    }
}

/// A database of its own beside the one that was named.
pub(crate) struct ScratchDatabase {
    named: String,
    name: String,
    /// Its address.
    pub(crate) url: String,
}

impl ScratchDatabase {
    async fn create(named: &str) -> Outcome<Self> {
        let name = format!("restante_bench_{}", Uuid::new_v4().simple());
        let (server, _) = named.rsplit_once('/').ok_or("the database's address names no database")?;
        let database = Self { named: named.to_owned(), url: format!("{server}/{name}"), name };
        database.say("CREATE DATABASE", "").await?;
        Ok(database)
    }

    async fn drop(self) -> Outcome<()> {
        self.say("DROP DATABASE", "WITH (FORCE)").await
    }

    async fn say(&self, verb: &str, rest: &str) -> Outcome<()> {
        let mut connection = PgConnection::connect(&self.named).await?;
        connection.execute(AssertSqlSafe(format!("{verb} {} {rest}", self.name))).await?;
        Ok(connection.close().await?)
    }
}

fn variable(name: &str) -> Outcome<String> {
    env::var(name).map_err(|_| format!("{name} is not set").into())
}
