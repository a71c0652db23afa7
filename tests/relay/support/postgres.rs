//! Postgres, in a database made for one test on the server that `RESTANTE_TEST_DATABASE_URL` names.

use std::sync::Arc;

use restante::{
    domain::ManualClock,
    store::{Limits, Store as _, postgres::PostgresStore},
};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::engine::{Engine, Parts};

/// A database to be dropped after its test.
pub(crate) struct Database {
    server: String,
    name: String,
    store: Arc<PostgresStore>,
}

/// A store in a new database. None, loudly, without a server to test against.
pub(crate) async fn make(limits: Limits) -> Option<(Engine, Database)> {
    let Ok(server) = std::env::var("RESTANTE_TEST_DATABASE_URL") else {
        eprintln!("skipped on postgres: RESTANTE_TEST_DATABASE_URL is not set");
        return None;
    };
    let name = format!("restante_{}", uuid::Uuid::new_v4().simple());
    execute(&server, format!("CREATE DATABASE {name}")).await;
    let base = server.rsplit_once('/').unwrap().0;
    let url = SecretString::from(format!("{base}/{name}"));
    let parts = Parts::new();
    let store = PostgresStore::connect(
        &url,
        5,
        limits,
        parts.committed.clone(),
        parts.clock.clone(),
        super::engine::pseudonyms(),
    )
    .await;
    let store = Arc::new(store.unwrap());
    let mut engine = parts.around(store.clone(), None);
    engine.url = Some(url);
    Some((engine, Database { server, name, store }))
}

/// Another node's store on the same database. What it emits goes nowhere.
pub(crate) async fn second(url: &SecretString, clock: Arc<ManualClock>) -> Arc<PostgresStore> {
    let (committed, _nowhere) = restante::store::committed(1, 1);
    let (limits, pseudonyms) = (super::engine::roomy(), super::engine::pseudonyms());
    Arc::new(PostgresStore::connect(url, 5, limits, committed, clock, pseudonyms).await.unwrap())
}

impl Database {
    pub(crate) async fn drop(self) {
        self.store.close().await;
        execute(&self.server, format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }
}

async fn execute(server: &str, statement: String) {
    let mut connection = PgConnection::connect(server).await.unwrap();
    sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
