//! The lanes of acks, of mailbox items and of group entries: one statement for a batch.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::BoxFuture;
use sqlx::{Error, PgConnection};

use super::{
    connect::LaneConnection,
    fault::{answered, classify},
    groups::windows,
    rows::Places,
};
use crate::{
    domain::{DeviceNo, Position},
    metrics,
    store::{
        ack::{EntryAck, ItemAck, credit, cursors, items},
        lane::{Commit, Fault},
    },
};

/// Item by item by the primary key, whatever the planner believes of the table (see the migration).
pub(crate) const ERASE: &str = "\
    SELECT n.device_no, n.position FROM unnest($1::bigint[], $2::bigint[]) AS n(device_no, position) \
    WHERE erase_item(n.device_no, n.position)";

/// Commits batches of acks of items.
pub(super) struct ItemAcks {
    pub(super) connection: Arc<LaneConnection>,
}

impl Commit<ItemAck, u32> for ItemAcks {
    fn commit<'a>(&'a self, batch: &'a [ItemAck]) -> BoxFuture<'a, Result<Vec<u32>, Fault>> {
        Box::pin(async move { answered(self.run(batch)).await.map_err(classify) })
    }
}

impl ItemAcks {
    async fn run(&self, batch: &[ItemAck]) -> Result<Vec<u32>, Error> {
        let mut connection = self.connection.take().await?;
        let removed = erase(&mut connection, batch).await?;
        self.connection.keep(connection);
        Ok(credit(batch, removed))
    }
}

/// Commits batches of acks of entries.
pub(super) struct EntryAcks {
    pub(super) connection: Arc<LaneConnection>,
}

impl Commit<EntryAck, ()> for EntryAcks {
    fn commit<'a>(&'a self, batch: &'a [EntryAck]) -> BoxFuture<'a, Result<Vec<()>, Fault>> {
        Box::pin(async move { answered(self.run(batch)).await.map_err(classify) })
    }
}

impl EntryAcks {
    async fn run(&self, batch: &[EntryAck]) -> Result<Vec<()>, Error> {
        let mut connection = self.connection.take().await?;
        windows::ack(&mut connection, &cursors(batch)).await?;
        self.connection.keep(connection);
        Ok(vec![(); batch.len()])
    }
}

async fn erase(
    connection: &mut PgConnection,
    batch: &[ItemAck],
) -> Result<HashSet<(DeviceNo, Position)>, Error> {
    let places = Places::sorted(items(batch));
    if places.device_nos.is_empty() {
        return Ok(HashSet::new());
    }
    let erase = sqlx::query_as(ERASE).bind(places.device_nos).bind(places.positions);
    let rows: Vec<(i64, i64)> = erase.fetch_all(connection).await?;
    metrics::items_acked(rows.len());
    Ok(rows.into_iter().map(|(device, position)| (DeviceNo(device), Position(position))).collect())
}
