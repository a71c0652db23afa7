//! Who holds a place in a crowd: a sorted set by the moment until which each holder is counted, by Redis' own clock.

use std::time::Duration;

use redis::Pipeline;
use uuid::Uuid;

use super::{
    PIPELINE_LENGTH,
    fault::Fault,
    names::Names,
    script::{Call, Script},
    way::Way,
};
use crate::domain::BudgetKey;

/// The script that counts a holder.
pub(super) fn script() -> Script {
    Script::new(include_str!("crowd.lua"))
}

fn call(names: &Names, (crowd, holder): (BudgetKey, Uuid), most: u32, life: Duration) -> Call {
    let arguments = vec![holder.simple().to_string(), most.to_string(), life.as_millis().to_string()];
    Call { key: names.crowd(crowd), arguments }
}

/// Counts a holder, unless `most` others are counted.
pub(super) async fn hold(
    script: &Script,
    way: &Way,
    names: &Names,
    held: (BudgetKey, Uuid),
    most: u32,
    life: Duration,
) -> Result<bool, Fault> {
    script.run_once::<bool>(way, call(names, held, most, life)).await
}

/// Counts holders, however many there are.
pub(super) async fn renew(
    script: &Script,
    way: &Way,
    names: &Names,
    held: &[(BudgetKey, Uuid)],
    life: Duration,
) -> Result<(), Fault> {
    for some in held.chunks(PIPELINE_LENGTH) {
        let calls: Vec<_> = some.iter().map(|held| call(names, *held, u32::MAX, life)).collect();
        for answer in script.run::<()>(way, &calls).await? {
            answer?;
        }
    }
    Ok(())
}

/// Counts holders no longer.
pub(super) async fn release(way: &Way, names: &Names, held: &[(BudgetKey, Uuid)]) -> Result<(), Fault> {
    for some in held.chunks(PIPELINE_LENGTH) {
        let mut pipeline = Pipeline::with_capacity(some.len());
        for (crowd, holder) in some {
            pipeline.cmd("ZREM").arg(names.crowd(*crowd)).arg(holder.simple().to_string());
        }
        for answer in way.run::<()>(&mut pipeline).await? {
            answer?;
        }
    }
    Ok(())
}
