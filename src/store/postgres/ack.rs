//! The lane of acks: one statement for the items of a batch, and one for its entries.

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
        ack::{Ack, credit, cursors, items},
        lane::{Commit, Fault},
    },
};

/// Item by item by the primary key, whatever the planner believes of the table (see the migration).
pub(crate) const ERASE: &str = "\
    SELECT n.device_no, n.position FROM unnest($1::bigint[], $2::bigint[]) AS n(device_no, position) \
    WHERE erase_item(n.device_no, n.position)";

/// Commits batches of acks.
pub(super) struct Acking {
    pub(super) connection: Arc<LaneConnection>,
}

impl Commit<Ack, u32> for Acking {
    fn commit<'a>(&'a self, batch: &'a [Ack]) -> BoxFuture<'a, Result<Vec<u32>, Fault>> {
        Box::pin(async move { answered(self.run(batch)).await.map_err(classify) })
    }
}

impl Acking {
    async fn run(&self, batch: &[Ack]) -> Result<Vec<u32>, Error> {
        let mut connection = self.connection.take().await?;
        // Cursors come first: to move them again does no harm, where items that are gone would count as not removed.
        windows::ack(&mut connection, &cursors(batch)).await?;
        let removed = erase(&mut connection, batch).await?;
        self.connection.keep(connection);
        Ok(credit(batch, removed))
    }
}

async fn erase(connection: &mut PgConnection, batch: &[Ack]) -> Result<HashSet<(DeviceNo, Position)>, Error> {
    let places = Places::sorted(items(batch));
    if places.device_nos.is_empty() {
        return Ok(HashSet::new());
    }
    let erase = sqlx::query_as(ERASE).bind(places.device_nos).bind(places.positions);
    let rows: Vec<(i64, i64)> = erase.fetch_all(connection).await?;
    metrics::items_acked(rows.len());
    Ok(rows.into_iter().map(|(device, position)| (DeviceNo(device), Position(position))).collect())
}
