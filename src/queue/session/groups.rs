//! What a session writes of the logs of groups.

use std::sync::Arc;

use futures_util::{FutureExt as _, future::BoxFuture};
use tokio::time::Instant;

use super::{BY_TURNS, Session};
use crate::{
    domain::{GroupId, LogEntry, Position},
    hot::Told,
    metrics::{self, Way},
    queue::{
        frames::{Format, ServerFrame},
        logs::Give,
        outbox::data_frame,
    },
    store::StoreError,
};

impl Session {
    /// Writes some of what comes next in the logs; whether there was anything.
    pub(super) fn write_entries(&mut self) -> bool {
        self.logs.open_gates(self.cursor.seen());
        let mut written = 0;
        while written < BY_TURNS && self.outbox.has_room() {
            match self.logs.next(self.cursor.seen(), self.sockets.in_flight) {
                Some((_, Give::Entry(told))) => {
                    self.write_entry(&told);
                    metrics::entries_delivered(Way::Socket, 1);
                }
                Some((group, Give::Gap(from, to))) => self.write(&ServerFrame::gap(group, from, to)),
                None => break,
            }
            self.tell_drained();
            written += 1;
        }
        self.tell_drained();
        written > 0
    }

    /// Writes an entry: the frame that all sessions of this process share, unless its body has expired since.
    fn write_entry(&self, told: &Told) {
        let entry = told.entry();
        let (format, now) = (self.format, self.sockets.queue.clock.now());
        let expired = entry.body.is_some() && entry.expires_at.is_some_and(|at| at <= now);
        if expired {
            let bodiless = LogEntry { body: None, ..LogEntry::clone(entry) };
            return self.write(&ServerFrame::entry(&bodiless));
        }
        let frame = told.frame(format.form(), || {
            let payload = format.encode(&ServerFrame::entry(entry))?;
            Some(data_frame(&payload, format == Format::MessagePack))
        });
        if let Some(frame) = frame {
            self.outbox.push_frame(frame);
        } else {
            tracing::error!("a frame could not be written");
        }
    }

    /// How acks of entries are stored.
    pub(super) fn storing_acks(
        &self,
    ) -> impl Fn(Vec<(GroupId, Position)>) -> BoxFuture<'static, Result<(), StoreError>> + use<> {
        let (store, device) = (Arc::clone(&self.sockets.queue.store), self.caller.device_no);
        move |acks| {
            let store = Arc::clone(&store);
            async move { store.ack_entries(device, &acks).await }.boxed()
        }
    }

    /// When [`Session::sound_alarm`] is to be called.
    pub(super) fn next_alarm(&self) -> Option<Instant> {
        let alarms = [self.cursor.retry_at(), self.logs.retry_at(), self.acks.due()];
        alarms.into_iter().flatten().min()
    }

    /// Does what is due: asks the store again that could not be asked, and stores acks.
    pub(super) fn sound_alarm(&mut self) {
        let now = Instant::now();
        if self.cursor.retry_at().is_some_and(|at| at <= now) {
            self.cursor.retry();
        }
        self.logs.retry(now);
        let store = self.storing_acks();
        self.acks.store(store, now);
    }
}
