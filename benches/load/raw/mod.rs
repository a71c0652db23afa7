//! The ceiling in the same run: the same rows written into the same engine by one connection, in batches, without
//! looking for repeats, without locks, and without anybody to tell.

mod postgres;
mod sqlite;

use std::time::{Duration, Instant};

use rand::RngCore;
use uuid::Uuid;

use crate::{Outcome, frames::Stamps, options::Options, relay::Relay};
use postgres::Postgres;
use sqlite::Sqlite;

/// The sizes of batches that are tried.
pub(crate) const BATCHES: [usize; 3] = [1, 64, 256];

/// A connection to scratch tables.
pub(crate) struct Raw {
    engine: Engine,
    rows: Rows,
}

enum Engine {
    Postgres(Postgres),
    Sqlite(Sqlite),
}

/// One message's rows.
struct Row {
    id: Uuid,
    mailbox: i64,
    position: i64,
    sender: Uuid,
    recipient: Uuid,
    conversation: Uuid,
}

/// Makes messages: each mailbox has its own sender, and they take turns.
struct Rows {
    stamps: Stamps,
    people: Vec<(Uuid, Uuid, Uuid)>,
    count: u32,
    body: Vec<u8>,
}

impl Rows {
    fn next(&mut self, batch: usize) -> Vec<Row> {
        let mailboxes = u32::try_from(self.people.len()).unwrap_or(1);
        (0..batch)
            .map(|_| {
                let (turn, mailbox) = (self.count / mailboxes, self.count % mailboxes);
                self.count += 1;
                let (sender, recipient, conversation) = self.people[mailbox as usize];
                Row {
                    id: self.stamps.id(Instant::now(), u32::MAX >> 2, self.count),
                    mailbox: i64::from(mailbox) + 1,
                    position: i64::from(turn) + 1,
                    sender,
                    recipient,
                    conversation,
                }
            })
            .collect()
    }
}

impl Raw {
    pub(crate) async fn open(relay: &Relay, options: &Options, stamps: Stamps) -> Outcome<Self> {
        let mut body = vec![0; options.size as usize];
        rand::rng().fill_bytes(&mut body);
        let person = |_| (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let rows = Rows { stamps, people: (0..options.pairs).map(person).collect(), count: 0, body };
        let mailboxes = i64::try_from(options.pairs)?;
        let engine = if let Some(database) = &relay.database {
            Engine::Postgres(Postgres::open(&database.url, mailboxes).await?)
        } else {
            let path = relay.folder.path().join("raw.db");
            Engine::Sqlite(Sqlite::open(&path, mailboxes).await?)
        };
        Ok(Self { engine, rows })
    }

    /// Messages written a second, in batches of this size.
    pub(crate) async fn rate(&mut self, batch: usize, time: Duration) -> Outcome<f64> {
        let (start, mut written) = (Instant::now(), 0.0);
        while start.elapsed() < time {
            let rows = self.rows.next(batch);
            match &mut self.engine {
                Engine::Postgres(postgres) => postgres.write(&rows, &self.rows.body).await?,
                Engine::Sqlite(sqlite) => sqlite.write(&rows, &self.rows.body).await?,
            }
            written += f64::from(u32::try_from(batch)?);
        }
        Ok(written / start.elapsed().as_secs_f64())
    }
}

/// The heads after these rows, one for each mailbox.
fn heads(rows: &[Row]) -> std::collections::BTreeMap<i64, i64> {
    rows.iter().map(|row| (row.mailbox, row.position)).collect()
}
