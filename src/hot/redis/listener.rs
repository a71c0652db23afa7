//! What comes in on the pub/sub connection, brought to the doorbell.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use redis::{PushInfo, PushKind, Value};
use tokio_util::sync::CancellationToken;

use super::{
    codec::{self, NodeId},
    names::{Names, Topic},
};
use crate::hot::Doorbell;

/// Takes pushes from the connection's own task, so that nothing is queued in between: while the doorbell is busy the
/// connection is not read, and it is Redis that bounds what waits.
pub(super) struct Listener {
    pub(super) node: NodeId,
    pub(super) names: Names,
    pub(super) doorbell: Arc<dyn Doorbell>,
    ignored: AtomicU64,
}

impl Listener {
    pub(super) fn new(node: NodeId, names: Names, doorbell: Arc<dyn Doorbell>) -> Self {
        Self { node, names, doorbell, ignored: AtomicU64::new(0) }
    }

    /// Takes one push of a connection, and cancels `lost` when it is the connection's last.
    pub(super) fn hear(&self, push: &PushInfo, lost: &CancellationToken) {
        if lost.is_cancelled() {
            return;
        }
        match push.kind {
            PushKind::Message => self.hear_message(&push.data),
            PushKind::Disconnection => lost.cancel(),
            // Confirmations are answers, which the connection hands to who waits for them.
            _ => {}
        }
    }

    fn hear_message(&self, data: &[Value]) {
        let [Value::BulkString(channel), Value::BulkString(payload)] = data else {
            return self.ignore();
        };
        match codec::sender(payload) {
            Ok(node) if node == self.node => return,
            Ok(_) => {}
            Err(_) => return self.ignore(),
        }
        if self.ring(self.names.topic(channel), payload).is_none() {
            self.ignore();
        }
    }

    /// Rings for a payload; none when it is not one of this channel. Whether a session took it is of no use here: nobody
    /// waits for the answer.
    fn ring(&self, topic: Option<Topic>, payload: &[u8]) -> Option<()> {
        match topic? {
            Topic::Device(device) => {
                let (owner, event) = codec::decode(payload).ok()?;
                (owner == device).then(|| self.doorbell.ring(device, event))?;
            }
            Topic::Group(group) => {
                let (owner, event) = codec::decode_group(payload).ok()?;
                (owner == group).then(|| self.doorbell.ring_group(group, event))?;
            }
        }
        Some(())
    }

    /// Counts a payload that is not ours to understand; says so at the first, the second, the fourth and so on, since
    /// whoever sends one may send many.
    fn ignore(&self) {
        let count = self.ignored.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if count.is_power_of_two() {
            tracing::warn!(count, "ignored a payload that is not an event of a known version");
        }
    }
}
