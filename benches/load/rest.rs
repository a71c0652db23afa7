//! Sending by REST: one kept HTTP/1.1 connection, one request under way, its bytes made once and patched.

use std::{net::SocketAddr, sync::atomic::Ordering::Relaxed, time::Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, sleep_until},
};
use uuid::Uuid;

use crate::{
    Outcome,
    frames::{Pace, Stamps, after, body, send_head},
    lanes::{REST_AFTER_REFUSAL, Tally},
    people::Person,
};

/// What a UUID takes as text.
const ID: usize = 36;

/// One connection of a sender.
pub(crate) struct RestLane {
    stream: TcpStream,
    request: Vec<u8>,
    /// Where the message's id is in the request.
    id_at: usize,
    answer: Vec<u8>,
    lane: u32,
    count: u32,
}

impl RestLane {
    pub(crate) async fn open(
        address: SocketAddr,
        sender: &Person,
        recipient: Uuid,
        size: u32,
        lane: u32,
    ) -> Outcome<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let json = send_head("", recipient, &body(size));
        let head = format!(
            "POST /api/v1/messages/send/{} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            sender.user,
            sender.token,
            json.len() + ID + 2
        );
        let id_at = head.len() + json.len();
        let request = format!("{head}{json}{}\"}}", Uuid::nil()).into_bytes();
        Ok(Self { stream, request, id_at, answer: Vec::with_capacity(1024), lane, count: 0 })
    }

    pub(crate) async fn run(&mut self, pace: Pace, stamps: Stamps, tally: &Tally) -> Outcome<Vec<u32>> {
        let (mut latencies, mut next) = (Vec::new(), pace.start);
        loop {
            let mut due = Instant::now();
            if let Some(gap) = pace.gap {
                due = next;
                next += gap;
            }
            if due >= pace.until {
                return Ok(latencies);
            }
            sleep_until(due.into()).await;
            if let Some(micros) = self.send_one(Pace::stamp(due), stamps, tally).await? {
                tally.note(&mut latencies, micros);
            } else {
                sleep(REST_AFTER_REFUSAL).await;
            }
        }
    }

    /// Sends one message, and tells how long its commit took if it was accepted.
    pub(crate) async fn send_one(
        &mut self,
        at: Instant,
        stamps: Stamps,
        tally: &Tally,
    ) -> Outcome<Option<u32>> {
        self.count += 1;
        let id = stamps.id(at, self.lane, self.count);
        let place = self.request.get_mut(self.id_at..self.id_at + ID).ok_or("no place for the id")?;
        id.hyphenated().encode_lower(place);
        self.stream.write_all(&self.request).await?;
        let answer = self.answer().await?;
        if !answer.starts_with("HTTP/1.1 201") {
            tally.refuse(answer);
            return Ok(None);
        }
        tally.committed.fetch_add(1, Relaxed);
        Ok(Some(stamps.age(id)))
    }

    /// One whole answer.
    async fn answer(&mut self) -> Outcome<&str> {
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err("the relay closed a connection".into());
            }
            let text = std::str::from_utf8(&self.answer)?;
            let Some(end) = text.find("\r\n\r\n") else { continue };
            let length = after(text, "content-length: ").and_then(|rest| rest.split('\r').next());
            let length: usize = length.ok_or("an answer without a length")?.parse()?;
            if text.len() >= end + 4 + length {
                break;
            }
        }
        Ok(std::str::from_utf8(&self.answer)?)
    }
}
