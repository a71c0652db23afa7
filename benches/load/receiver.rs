//! Receiving: every message is acked, together with those that came with it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed};

use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::{
    frames::{Heard, Socket, Stamps, ack, count_of},
    lanes::Tally,
};

/// A receiver that listens in the background.
pub(crate) struct Receiver {
    latencies: Arc<Mutex<Vec<u32>>>,
    listening: JoinHandle<()>,
}

impl Receiver {
    /// Listens from now on. `in_order` says that the sender's messages are numbered in the order they were sent.
    pub(crate) fn start(mut socket: Socket, in_order: bool, stamps: Stamps, tally: &'static Tally) -> Self {
        let latencies = Arc::<Mutex<Vec<u32>>>::default();
        let noted = Arc::clone(&latencies);
        let listening = tokio::spawn(async move {
            let (mut last, mut ids) = (0, Vec::new());
            loop {
                let heard = socket.hear(|heard| match heard {
                    Heard::Message(id) => {
                        tally.received.fetch_add(1, Relaxed);
                        tally.note(&mut lock(&noted), stamps.age(id));
                        if in_order && count_of(id) != last + 1 {
                            tally.disordered.fetch_add(1, Relaxed);
                        }
                        last = count_of(id);
                        ids.push(id);
                    }
                    Heard::Acked(count) => {
                        tally.acked.fetch_add(count, Relaxed);
                    }
                    Heard::Error(why) => eprintln!("an ack was refused: {why}"),
                    Heard::Sent(_) | Heard::Entry(_) | Heard::Drained | Heard::Other => {}
                });
                let heard = heard.await;
                let acked = if heard.is_ok() { send_ack(&mut socket, &mut ids).await } else { heard };
                if let Err(error) = acked {
                    eprintln!("a receiver ended: {error}");
                    return;
                }
            }
        });
        Self { latencies, listening }
    }

    /// What was remembered since the last time.
    pub(crate) fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *lock(&self.latencies))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Acks what has come, if anything has.
pub(crate) async fn send_ack(socket: &mut Socket, ids: &mut Vec<Uuid>) -> crate::Outcome<()> {
    for some in ids.chunks(1000) {
        socket.feed(ack(some)).await?;
    }
    ids.clear();
    socket.flush().await
}

fn lock(latencies: &Mutex<Vec<u32>>) -> MutexGuard<'_, Vec<u32>> {
    latencies.lock().unwrap_or_else(PoisonError::into_inner)
}
