//! Who holds a place in a crowd: a sorted set by the moment until which each holder is counted, by Redis' own clock.

use std::time::Duration;

use redis::Pipeline;
use uuid::Uuid;

use super::{
    PIPELINE_LENGTH,
    codec::NodeId,
    fault::Fault,
    names::Names,
    script::{Call, Script},
    way::Way,
};
use crate::domain::BudgetKey;

/// The places of one node.
pub(super) struct Crowds {
    script: Script,
    node: String,
}

impl Crowds {
    pub(super) fn of(node: NodeId) -> Self {
        Self { script: Script::new(include_str!("crowd.lua")), node: node.text() }
    }

    fn call(&self, names: &Names, (crowd, holder): (BudgetKey, Uuid), most: u32, life: Duration) -> Call {
        let arguments = vec![
            holder.simple().to_string(),
            self.node.clone(),
            most.to_string(),
            life.as_millis().to_string(),
        ];
        Call { key: names.crowd(crowd), arguments }
    }

    /// Counts a holder, unless `most` others are counted.
    pub(super) async fn hold(
        &self,
        way: &Way,
        names: &Names,
        held: (BudgetKey, Uuid),
        most: u32,
        life: Duration,
    ) -> Result<bool, Fault> {
        self.script.run_once::<bool>(way, self.call(names, held, most, life)).await
    }

    /// Counts holders, however many there are.
    pub(super) async fn renew(
        &self,
        way: &Way,
        names: &Names,
        held: &[(BudgetKey, Uuid)],
        life: Duration,
    ) -> Result<(), Fault> {
        for some in held.chunks(PIPELINE_LENGTH) {
            let calls: Vec<_> = some.iter().map(|held| self.call(names, *held, u32::MAX, life)).collect();
            for answer in self.script.run::<()>(way, &calls).await? {
                answer?;
            }
        }
        Ok(())
    }

    /// Counts holders no longer.
    pub(super) async fn release(
        &self,
        way: &Way,
        names: &Names,
        held: &[(BudgetKey, Uuid)],
    ) -> Result<(), Fault> {
        for some in held.chunks(PIPELINE_LENGTH) {
            let mut pipeline = Pipeline::with_capacity(some.len());
            for (crowd, holder) in some {
                let place = format!("{}{}", holder.simple(), self.node);
                pipeline.cmd("ZREM").arg(names.crowd(*crowd)).arg(place);
            }
            for answer in way.run::<()>(&mut pipeline).await? {
                answer?;
            }
        }
        Ok(())
    }
}
