//! A Postgres database of a test's own, gone when the test is.

use std::thread;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

/// Where the server to test against is, if there is one.
pub fn server() -> Option<String> {
    std::env::var("RESTANTE_TEST_DATABASE_URL").ok().filter(|url| !url.is_empty())
}

/// A database that is dropped with this value.
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    pub async fn make(server: &str) -> Self {
        let name = format!("restante_test_{}", Uuid::new_v4().simple());
        execute(server, &format!("CREATE DATABASE {name}")).await;
        Self { server: server.to_owned(), name }
    }

    pub fn url(&self) -> String {
        let (base, query) = self.server.split_once('?').unwrap_or((&self.server, ""));
        let end = base.rfind('/').filter(|end| *end > "postgres://".len()).unwrap_or(base.len());
        let query = if query.is_empty() { String::new() } else { format!("?{query}") };
        format!("{}/{}{query}", &base[..end], self.name)
    }

    /// Runs a statement on the server, beside the database.
    pub async fn on_server(&self, statement: &str) {
        execute(&self.server, &statement.replace("{name}", &self.name)).await;
    }
}

impl Drop for Database {
    /// On a thread of its own, since a panicking test has no runtime to wait on.
    fn drop(&mut self) {
        let (server, statement) =
            (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        let dropping = thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(execute(&server, &statement));
        });
        if dropping.join().is_err() {
            eprintln!("a test database could not be dropped");
        }
    }
}

async fn execute(url: &str, statement: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
