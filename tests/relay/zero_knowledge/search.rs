//! Searching for what must not be there: in files, tables, Redis and logs.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::support::relay::Backend;

/// What is searched for, and what it is.
pub(super) struct Secret(pub(super) &'static str, pub(super) Vec<u8>);

/// The secret as itself, in hex and in base64, the ways it could be written.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex = secret.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let debug = format!("{secret:?}");
    let list = debug.trim_matches(['[', ']']).to_owned();
    let base64 = STANDARD.encode(secret).trim_end_matches('=').to_owned();
    vec![
        secret.to_vec(),
        hex.to_uppercase().into_bytes(),
        hex.into_bytes(),
        base64.into_bytes(),
        list.into_bytes(),
    ]
}

pub(super) fn assert_absent(place: &str, haystack: &[u8], secrets: &[Secret]) {
    let haystack = latin(haystack);
    for Secret(what, secret) in secrets {
        assert!(secret.len() >= 8, "{what} is too short to be searched for");
        for spelling in spellings(secret) {
            let found = haystack.contains(&latin(&spelling));
            assert!(!found, "{place} holds {what}, as {:?}", String::from_utf8_lossy(&spelling));
        }
    }
}

/// Bytes as a text of one character for each, because texts are searched fast.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    latin(haystack).contains(&latin(needle))
}

/// Everything in the store, as bytes: the files as they are, and every column of every table. The key files are what the
/// store is searched for, and so are left out.
pub(super) async fn store(backend: &Backend) -> Vec<u8> {
    let mut all = Vec::new();
    collect(backend.folder(), &mut all);
    if let Some(database) = backend.database() {
        all.extend(dump_postgres(&database.url(), "%").await);
    } else {
        assert!(holds(&all, b"SQLite format 3"), "the database was to be searched");
        all.extend(dump_sqlite(&backend.folder().join("restante.db"), "%").await);
    }
    all
}

fn collect(folder: &Path, all: &mut Vec<u8>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, all);
        } else if path.extension().is_none_or(|extension| extension != "key") {
            // A file of the running database may go away meanwhile.
            all.extend(fs::read(path).unwrap_or_default());
        }
    }
}

/// Every row of the audit trail, which must not be empty.
pub(super) async fn audit(backend: &Backend) -> Vec<u8> {
    let rows = match backend.database() {
        Some(database) => dump_postgres(&database.url(), "audit").await,
        None => dump_sqlite(&backend.folder().join("restante.db"), "audit").await,
    };
    assert!(!rows.is_empty(), "the trail was to be searched");
    rows
}

/// Every row of the tables of this name as text; bytes come in hex.
async fn dump_postgres(url: &str, which: &str) -> Vec<u8> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let tables =
        sqlx::query("SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public' AND table_name LIKE $1").bind(which);
    let tables = tables.fetch_all(&mut connection).await.unwrap();
    assert!(tables.len() > if which == "%" { 5 } else { 0 }, "the tables were to be searched");
    let mut all = Vec::new();
    for table in tables {
        let name: String = table.get(0);
        let rows = sqlx::query(AssertSqlSafe(format!("SELECT t::text FROM \"{name}\" t")));
        for row in rows.fetch_all(&mut connection).await.unwrap() {
            all.extend(row.get::<String, _>(0).into_bytes());
        }
    }
    connection.close().await.unwrap();
    all
}

/// Every row of the tables of this name as SQL literals; bytes come in hex.
async fn dump_sqlite(path: &Path, which: &str) -> Vec<u8> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
    let tables =
        sqlx::query("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE ? ORDER BY name")
            .bind(which);
    let tables = tables.fetch_all(&mut connection).await.unwrap();
    assert!(tables.len() > if which == "%" { 5 } else { 0 }, "the tables were to be searched");
    let mut all = Vec::new();
    for table in tables {
        let name: String = table.get(0);
        let columns = sqlx::query("SELECT name FROM pragma_table_info(?) ORDER BY cid").bind(&name);
        for column in columns.fetch_all(&mut connection).await.unwrap() {
            let column: String = column.get(0);
            let values = sqlx::query(AssertSqlSafe(format!("SELECT quote(\"{column}\") FROM \"{name}\"")));
            for value in values.fetch_all(&mut connection).await.unwrap() {
                all.extend(value.get::<String, _>(0).into_bytes());
                all.push(b'\n');
            }
        }
    }
    connection.close().await.unwrap();
    all
}

/// Everything that a relay keeps in Redis, apart: the keys and what does not hold mail, and the mail.
pub(super) struct HotState {
    pub(super) plain: Vec<u8>,
    pub(super) mail: Vec<u8>,
}

/// Reads all that stands under a prefix.
pub(super) async fn redis(url: &str, prefix: &str) -> HotState {
    let client = redis::Client::open(url).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let mut state = HotState { plain: Vec::new(), mail: Vec::new() };
    let mut cursor = 0;
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(format!("{prefix}*")).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<Vec<u8>>) = scan.query_async(&mut redis).await.unwrap();
        for key in keys {
            state.plain.extend(&key);
            state.plain.push(b'\n');
            let kind: String = redis::cmd("TYPE").arg(&key).query_async(&mut redis).await.unwrap();
            let (read, arguments): (&str, &[&str]) = match kind.as_str() {
                "string" => ("GET", &[]),
                "hash" => ("HGETALL", &[]),
                "list" => ("LRANGE", &["0", "-1"]),
                "set" => ("SMEMBERS", &[]),
                "zset" => ("ZRANGE", &["0", "-1", "WITHSCORES"]),
                "stream" => ("XRANGE", &["-", "+"]),
                // It ended meanwhile.
                "none" => continue,
                other => panic!("a {other} was not to be expected"),
            };
            let value: redis::Value =
                redis::cmd(read).arg(&key).arg(arguments).query_async(&mut redis).await.unwrap();
            flatten(&value, if kind == "stream" { &mut state.mail } else { &mut state.plain });
        }
        cursor = next;
        if cursor == 0 {
            return state;
        }
    }
}

fn flatten(value: &redis::Value, all: &mut Vec<u8>) {
    match value {
        redis::Value::Array(values) | redis::Value::Set(values) => {
            for value in values {
                flatten(value, all);
            }
        }
        redis::Value::Map(pairs) => {
            for (name, value) in pairs {
                flatten(name, all);
                flatten(value, all);
            }
        }
        redis::Value::BulkString(bytes) => all.extend(bytes),
        other => all.extend(format!("{other:?}").into_bytes()),
    }
    all.push(b'\n');
}

#[test]
fn the_search_finds_every_spelling() {
    let secret = [1, 2, 3, 4, 5, 250, 251, 252, 253];
    for written in [
        format!("key: {secret:?}"),
        "key: 0102030405FAFBFCFD".to_owned(),
        "key: 0102030405fafbfcfd".to_owned(),
        format!("key: {}", STANDARD.encode(secret)),
    ] {
        assert!(spellings(&secret).iter().any(|spelling| holds(written.as_bytes(), spelling)), "{written}");
    }
    assert!(holds(b"aaab", b"aab") && !holds(b"aaab", b"aac"));
}
