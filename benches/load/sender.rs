//! Sending over a socket.

use std::{sync::atomic::Ordering::Relaxed, time::Instant};

use tokio::time::sleep_until;
use uuid::Uuid;

use crate::{
    Outcome,
    frames::{Heard, Pace, Socket, Stamps},
    lanes::{REST_AFTER_REFUSAL, Tally},
};

/// A sender's socket.
pub(crate) struct SocketLane {
    socket: Socket,
    head: String,
    lane: u32,
    count: u32,
    in_flight: usize,
}

/// What the answers of one look at the socket came to.
#[derive(Default)]
struct Answers {
    committed: usize,
    refused: usize,
}

impl SocketLane {
    /// A lane whose frames begin with `head`, which says everything but the message's id.
    pub(crate) fn new(socket: Socket, head: String, lane: u32, in_flight: usize) -> Self {
        Self { socket, head, lane, count: 0, in_flight }
    }

    pub(crate) async fn run(&mut self, pace: Pace, stamps: Stamps, tally: &Tally) -> Outcome<Vec<u32>> {
        match pace.gap {
            None => self.run_closed(pace.until, stamps, tally).await,
            Some(_) => self.run_open(pace, stamps, tally).await,
        }
    }

    /// Keeps as many sends under way as are allowed.
    async fn run_closed(&mut self, until: Instant, stamps: Stamps, tally: &Tally) -> Outcome<Vec<u32>> {
        let (mut latencies, mut waiting) = (Vec::new(), 0);
        loop {
            let now = Instant::now();
            if now < until && waiting < self.in_flight {
                while waiting < self.in_flight {
                    self.send(now, stamps).await?;
                    waiting += 1;
                }
                self.socket.flush().await?;
            }
            if waiting == 0 {
                return Ok(latencies);
            }
            let answers = self.hear(stamps, tally, &mut latencies).await?;
            waiting -= answers.committed + answers.refused;
            if answers.refused > 0 {
                tokio::time::sleep(REST_AFTER_REFUSAL).await;
            }
        }
    }

    /// Sends when a message is due, whatever is under way.
    async fn run_open(&mut self, pace: Pace, stamps: Stamps, tally: &Tally) -> Outcome<Vec<u32>> {
        let (mut latencies, mut waiting, mut due) = (Vec::new(), 0, pace.start);
        while due < pace.until || waiting > 0 {
            tokio::select! {
                biased;
                () = sleep_until(due.into()), if due < pace.until => {
                    self.send(Pace::stamp(due), stamps).await?;
                    self.socket.flush().await?;
                    waiting += 1;
                    due += pace.gap.unwrap_or_default();
                }
                answers = Self::answers(&mut self.socket, stamps, tally, &mut latencies) => {
                    let answers = answers?;
                    waiting -= answers.committed + answers.refused;
                }
            }
        }
        Ok(latencies)
    }

    async fn send(&mut self, at: Instant, stamps: Stamps) -> Outcome<()> {
        self.count += 1;
        let id = stamps.id(at, self.lane, self.count);
        let mut text = String::with_capacity(self.head.len() + 40);
        text.push_str(&self.head);
        text.push_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        text.push_str("\"}");
        self.socket.feed(text).await
    }

    async fn hear(&mut self, stamps: Stamps, tally: &Tally, latencies: &mut Vec<u32>) -> Outcome<Answers> {
        Self::answers(&mut self.socket, stamps, tally, latencies).await
    }

    async fn answers(
        socket: &mut Socket,
        stamps: Stamps,
        tally: &Tally,
        latencies: &mut Vec<u32>,
    ) -> Outcome<Answers> {
        let mut answers = Answers::default();
        socket
            .hear(|heard| match heard {
                Heard::Sent(id) => {
                    answers.committed += 1;
                    tally.committed.fetch_add(1, Relaxed);
                    tally.note(latencies, stamps.age(id));
                }
                Heard::Error(why) => {
                    answers.refused += 1;
                    tally.refuse(&why);
                }
                Heard::Message(_) | Heard::Entry(_) | Heard::Acked(_) | Heard::Drained | Heard::Other => {}
            })
            .await?;
        Ok(answers)
    }
}
