//! The lane of acks: one statement for a batch.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::BoxFuture;
use sqlx::Error;

use super::{
    connect::LaneConnection,
    fault::{answered, classify},
    rows::Places,
};
use crate::{
    domain::{DeviceNo, Position},
    metrics,
    store::lane::{Commit, Fault},
};

/// One device's ack.
pub(super) type Acked = (DeviceNo, Vec<Position>);

/// Item by item by the primary key, whatever the planner believes of the table (see the migration).
pub(crate) const ERASE: &str = "\
    SELECT n.device_no, n.position FROM unnest($1::bigint[], $2::bigint[]) AS n(device_no, position) \
    WHERE erase_item(n.device_no, n.position)";

/// Commits batches of acks.
pub(super) struct Ack {
    pub(super) connection: Arc<LaneConnection>,
}

impl Commit<Acked, u32> for Ack {
    fn commit<'a>(&'a self, batch: &'a [Acked]) -> BoxFuture<'a, Result<Vec<u32>, Fault>> {
        Box::pin(async move { answered(self.run(batch)).await.map_err(classify) })
    }
}

impl Ack {
    async fn run(&self, batch: &[Acked]) -> Result<Vec<u32>, Error> {
        let named = |(device, positions): &Acked| {
            let device = *device;
            positions.clone().into_iter().map(move |position| (device, position))
        };
        let places = Places::sorted(batch.iter().flat_map(named));
        let mut connection = self.connection.take().await?;
        let rows: Vec<(i64, i64)> = sqlx::query_as(ERASE)
            .bind(places.device_nos)
            .bind(places.positions)
            .fetch_all(&mut connection)
            .await?;
        self.connection.keep(connection);
        metrics::items_acked(rows.len());
        Ok(credit(batch, rows.into_iter().collect()))
    }
}

/// How many rows each ack removed. Of two that name the same item the earlier did.
fn credit(batch: &[Acked], mut removed: HashSet<(i64, i64)>) -> Vec<u32> {
    let mut credits = Vec::with_capacity(batch.len());
    for (device, positions) in batch {
        let mut credit = 0;
        for position in positions {
            credit += u32::from(removed.remove(&(device.0, position.0)));
        }
        credits.push(credit);
    }
    credits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_that_is_named_twice_counts_once() {
        let batch = [
            (DeviceNo(1), vec![Position(1), Position(1), Position(2)]),
            (DeviceNo(1), vec![Position(2), Position(3)]),
            (DeviceNo(2), vec![Position(1)]),
        ];
        let removed = HashSet::from([(1, 1), (1, 2), (1, 3)]);
        assert_eq!(credit(&batch, removed), [2, 1, 0]);
    }
}
