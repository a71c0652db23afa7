//! Every row of a store, for "nothing was changed".

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;
use sqlx::{
    AssertSqlSafe, Connection as _, PgConnection, Row as _, SqliteConnection, sqlite::SqliteConnectOptions,
};

use super::engine::Engine;

/// The rows of each table, as text, in an order of their own.
pub(crate) type Tables = BTreeMap<String, Vec<String>>;

impl Engine {
    /// Everything that is in the store.
    pub(crate) async fn tables(&self) -> Tables {
        let tables = match (&self.url, &self.folder) {
            (Some(url), _) => of_postgres(url.expose_secret()).await,
            (None, Some(folder)) => of_sqlite(&folder.path().join("restante.db")).await,
            (None, None) => panic!("this engine's place is not known"),
        };
        assert!(tables.contains_key("devices") && tables.contains_key("groups"), "{:?}", tables.keys());
        tables
    }

    /// Holds that nothing was changed since.
    pub(crate) async fn assert_unchanged(&self, before: &Tables, what: &str) {
        let after = self.tables().await;
        for (table, rows) in before {
            assert_eq!(rows, &after[table], "{what} changed the table {table}");
        }
    }
}

async fn of_postgres(url: &str) -> Tables {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let names = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'";
    let mut tables = Tables::new();
    for row in sqlx::query(names).fetch_all(&mut connection).await.unwrap() {
        let name: String = row.get(0);
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT row_to_json(t)::text FROM \"{name}\" t")));
        let rows = rows.fetch_all(&mut connection).await.unwrap();
        tables.insert(name, sorted(rows.iter().map(|row| row.get(0)).collect()));
    }
    connection.close().await.unwrap();
    tables
}

async fn of_sqlite(path: &std::path::Path) -> Tables {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let names = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let mut tables = Tables::new();
    for row in sqlx::query(names).fetch_all(&mut connection).await.unwrap() {
        let name: String = row.get(0);
        let columns = sqlx::query("SELECT name FROM pragma_table_info(?) ORDER BY cid").bind(&name);
        let columns = columns.fetch_all(&mut connection).await.unwrap();
        let values = columns.iter().map(|column| {
            let column: String = column.get(0);
            format!("'{column}=' || quote(\"{column}\")")
        });
        let values = values.collect::<Vec<_>>().join(" || ' ' || ");
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT {values} FROM \"{name}\"")));
        let rows = rows.fetch_all(&mut connection).await.unwrap();
        tables.insert(name, sorted(rows.iter().map(|row| row.get(0)).collect()));
    }
    connection.close().await.unwrap();
    tables
}

fn sorted(mut rows: Vec<String>) -> Vec<String> {
    rows.sort_unstable();
    rows
}
