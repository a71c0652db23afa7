//! What a device does over its socket.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::{ANSWER, Actor};
use crate::simulation::ledger::{InBurst, Moment, Sequences};
use crate::support::socket::{Door, Format, Incoming, Socket};

/// An open socket and what it has shown.
pub(super) struct Open {
    socket: Socket,
    since: Moment,
    order: Sequences,
    pub(super) drained: bool,
}

impl Actor {
    /// Opens a socket; the one before is left only then, so that the relay has to replace it.
    pub(super) async fn move_to(&mut self, node: usize) {
        let node = self.world.node(node);
        self.device.base = node.url();
        let since = self.ledger.moment();
        let opening = Socket::connect(&self.device, Format::Json, Door::Header);
        self.open = match timeout(ANSWER, opening).await {
            Ok(Ok(socket)) => Some(Open { socket, since, order: Sequences::new(), drained: false }),
            _ => None,
        };
        self.tally.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) async fn listen(&mut self, time: Duration) {
        if self.open.is_none() {
            self.move_to(self.node).await;
        }
        let deadline = Instant::now() + time;
        while self.hear(deadline).await.is_some() {}
    }

    /// The next frame, noted; none at the deadline, or when the socket is gone.
    pub(super) async fn hear(&mut self, deadline: Instant) -> Option<Value> {
        let mut open = self.open.take()?;
        let frame = match open.socket.read(deadline).await {
            Some(Incoming::Frame(frame)) => frame,
            // The node is going away, or the line is: the next one may be better.
            Some(Incoming::Closed(_)) => {
                self.node += 1;
                return None;
            }
            None => {
                self.open = Some(open);
                return None;
            }
        };
        match frame["type"].as_str() {
            Some("message" | "deleted" | "devices_changed") => self.take(&frame, open.since, &mut open.order),
            Some("queue_drained") => open.drained = true,
            _ => {}
        }
        self.open = Some(open);
        Some(frame)
    }

    async fn put(&mut self, frame: &Value) -> bool {
        let Some(open) = &mut self.open else { return false };
        let sent = timeout(ANSWER, open.socket.send_raw(Message::text(frame.to_string()))).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.open = None;
        }
        self.open.is_some()
    }

    /// Sends without waiting between, and whatever got no answer again over REST, in order.
    pub(super) async fn burst(&mut self, to: usize, count: usize) {
        if self.open.is_none() {
            self.move_to(self.node).await;
        }
        let burst = self.ledger.moment();
        let mut unanswered = Vec::new();
        for index in 0..count {
            let place = Some(InBurst { burst, index });
            let (id, body) = self.ledger.begin(self.index, to, None, place, self.world.times().0);
            let mut frame = body.clone();
            frame["type"] = json!("send");
            frame["ref"] = json!(id);
            self.put(&frame).await;
            unanswered.push((id, body));
        }
        let deadline = Instant::now() + ANSWER;
        while !unanswered.is_empty() {
            let Some(frame) = self.hear(deadline).await else { break };
            let Some(at) = unanswered.iter().position(|(id, _)| frame["ref"] == json!(id)) else { continue };
            match frame["type"].as_str() {
                Some("sent") => self.ledger.accepted(unanswered.remove(at).0, &frame, false, true),
                // It may have been committed all the same.
                Some("error")
                    if matches!(frame["code"].as_str(), Some("store-unavailable" | "overloaded")) =>
                {
                    break;
                }
                _ => {
                    self.ledger.violated(format!("a send over a socket was refused: {frame}"));
                    return;
                }
            }
        }
        if !unanswered.is_empty() {
            self.open = None;
        }
        for (id, body) in unanswered {
            self.settle(id, &body).await;
        }
    }

    pub(super) async fn ack(&mut self, most: usize, confirmed: bool) {
        let count = most.min(self.unacked.len());
        // Now and then the newest first, so that the mailbox has holes.
        let ids = if most.is_multiple_of(3) {
            self.unacked[self.unacked.len() - count..].to_vec()
        } else {
            self.unacked[..count].to_vec()
        };
        if ids.is_empty() {
            return;
        }
        let acked = if self.open.is_some() {
            self.ack_over_socket(&ids, confirmed).await
        } else {
            self.ack_over_rest(&ids, most).await
        };
        if acked {
            self.ledger.confirmed(self.index, &ids);
            self.unacked.retain(|id| !ids.contains(id));
        }
    }

    async fn ack_over_socket(&mut self, ids: &[Uuid], confirmed: bool) -> bool {
        let mut frame = json!({ "type": "ack", "message_ids": ids });
        if !confirmed {
            self.put(&frame).await;
            return false;
        }
        let reference = Uuid::new_v4().to_string();
        frame["ref"] = json!(reference);
        if !self.put(&frame).await {
            return false;
        }
        let deadline = Instant::now() + ANSWER;
        while let Some(frame) = self.hear(deadline).await {
            if frame["ref"] == reference.as_str() {
                return frame["type"] == "acked";
            }
        }
        // Nobody knows whether it was heard.
        self.open = None;
        false
    }
}
