//! A device that plays its part of a script: one loop that sends, reads, acks and moves, and notes what it sees.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use super::{
    ledger::{InBurst, Ledger, Moment, Sequences},
    script::Act,
    world::World,
};
use crate::support::{
    client::{Answer, Device},
    crypto::{b64, opaque},
    faults::authority,
    socket::{Door, Format, Incoming, Socket},
};

/// How long one answer is waited for before the request is made again.
const ANSWER: Duration = Duration::from_millis(2500);

/// How long a request is made again before the relay counts as broken.
const PATIENCE: Duration = Duration::from_secs(45);

/// What was done in all histories.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) histories: AtomicUsize,
    pub(super) accepted: AtomicUsize,
    pub(super) copies: AtomicUsize,
    pub(super) repeats: AtomicUsize,
    pub(super) faults: AtomicUsize,
    pub(super) reconnects: AtomicUsize,
}

/// An open socket and what it has shown.
struct Open {
    socket: Socket,
    since: Moment,
    order: Sequences,
    drained: bool,
}

pub(super) struct Actor {
    pub(super) world: Arc<World>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) tally: Arc<Tally>,
    pub(super) index: usize,
    pub(super) device: Device,
    http: reqwest::Client,
    node: usize,
    open: Option<Open>,
    /// Read, and not yet acked for certain.
    unacked: Vec<Uuid>,
}

impl Actor {
    pub(super) fn new(
        world: Arc<World>,
        ledger: Arc<Ledger>,
        tally: Arc<Tally>,
        index: usize,
        device: Device,
    ) -> Self {
        let http = reqwest::Client::builder().timeout(ANSWER).build().unwrap();
        Self { world, ledger, tally, index, device, http, node: index, open: None, unacked: Vec::new() }
    }

    pub(super) async fn perform(&mut self, act: &Act) {
        match *act {
            Act::Send { to, life } => {
                let (id, body) = self.ledger.begin(self.index, to, life, None, self.world.times().0);
                self.settle(id, &body).await;
            }
            Act::Burst { to, count } => self.burst(to, count).await,
            Act::Hurried { to } => self.hurry(to).await,
            Act::Repeat { which, altered } => self.repeat(which, altered).await,
            Act::Delete { which } => self.delete(which).await,
            Act::Listen { millis } => self.listen(Duration::from_millis(millis)).await,
            Act::Ack { most, confirmed } => self.ack(most, confirmed).await,
            Act::Page { limit } => drop(self.read_pages(limit).await),
            Act::Move { node } => self.move_to(node).await,
            Act::Leave => self.open = None,
        }
    }

    // --- REST -----------------------------------------------------------------------------------------------------

    async fn ask(&self, node: usize, method: Method, path: &str, body: Option<&Value>) -> Option<Answer> {
        let url = format!("{}{path}", self.world.node(node).url());
        let request = self.http.request(method, url).bearer_auth(&self.device.access_token);
        let request = if let Some(body) = body { request.json(body) } else { request };
        let response = request.send().await.ok()?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.bytes().await.ok()?;
        Some(Answer { status, body: serde_json::from_slice(&bytes).ok()?, headers })
    }

    /// Asks one node after the other until one gives a lasting answer.
    async fn insist(&mut self, method: Method, path: &str, body: Option<&Value>) -> Option<Answer> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.ask(self.node, method.clone(), path, body).await {
                Some(answer) if answer.status != 503 => return Some(answer),
                _ => self.node += 1,
            }
            self.tally.repeats.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(30)).await;
        }
        self.ledger.violated(format!("no answer to {method} {path} within {PATIENCE:?}"));
        None
    }

    fn send_path(&self) -> String {
        format!("/api/v1/messages/send/{}", self.device.user_id)
    }

    /// Sends until it is known that the message was accepted.
    async fn settle(&mut self, id: Uuid, body: &Value) {
        let path = self.send_path();
        match self.insist(Method::POST, &path, Some(body)).await {
            Some(answer) if matches!(answer.status, 200 | 201) => {
                self.ledger.accepted(id, &answer.body, answer.status == 201, false);
            }
            Some(refused) => self.ledger.violated(format!("a send was refused: {refused:?}")),
            None => {}
        }
    }

    async fn repeat(&mut self, which: usize, altered: bool) {
        let own = self.ledger.own(self.index, |sent| sent.settled.is_some());
        let Some((id, body)) = own.get(which % own.len().max(1)).cloned() else { return };
        if !altered {
            return self.settle(id, &body).await;
        }
        let mut other = body;
        other["ciphertext"] = json!(b64(opaque(64)));
        let path = self.send_path();
        let answer = self.insist(Method::POST, &path, Some(&other)).await;
        if let Some(answer) = answer.filter(|answer| answer.code() != "message-id-reused") {
            self.ledger.violated(format!("{id} with another body: {answer:?}"));
        }
    }

    /// Writes a send and goes away.
    async fn hurry(&mut self, to: usize) {
        let (_, body) = self.ledger.begin(self.index, to, None, None, self.world.times().0);
        let (address, body) = (authority(&self.world.node(self.node).url()), body.to_string());
        let request = format!(
            "POST {} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.send_path(),
            self.device.access_token,
            body.len()
        );
        if let Ok(mut stream) = TcpStream::connect(&address).await {
            // Whether it arrives is not known; it is settled at the end.
            let _ = stream.write_all(request.as_bytes()).await;
            sleep(Duration::from_millis(self.index as u64)).await;
        }
    }

    async fn delete(&mut self, which: usize) {
        let own = self.ledger.own(self.index, |sent| sent.settled.is_some() && !sent.may_be_gone);
        let Some((id, _)) = own.get(which % own.len().max(1)) else { return };
        self.ledger.deleting(*id);
        let path = format!("/api/v1/messages/delete/{}/{id}?for=everyone", self.device.user_id);
        match self.insist(Method::DELETE, &path, None).await {
            Some(answer) if answer.status == 200 => self.ledger.deleted(*id),
            Some(answer) => self.ledger.violated(format!("{id} was not deleted: {answer:?}")),
            None => {}
        }
    }

    fn queue_path(&self) -> String {
        format!("/api/v1/messages/queue/{}/{}", self.device.user_id, self.device.device_id)
    }

    /// Reads the mailbox to its end over REST, with the socket closed; whether anything was there.
    pub(super) async fn read_pages(&mut self, limit: usize) -> bool {
        self.open = None;
        let (mut after, mut order, mut found) = (0, Sequences::new(), false);
        loop {
            let since = self.ledger.moment();
            let jumps = self.world.jumps.load(Ordering::SeqCst);
            let path = format!("{}?limit={limit}&after={after}", self.queue_path());
            let earliest = self.world.times().0;
            let Some(page) = self.insist(Method::GET, &path, None).await else { return found };
            if page.status != 200 {
                self.ledger.violated(format!("a page was refused: {page:?}"));
                return found;
            }
            for item in ["messages", "notices"].iter().flat_map(|kind| page[*kind].as_array().unwrap()) {
                found = true;
                let ended = item["expires_at"].as_str().is_some_and(|ends| ends < stamp(earliest).as_str());
                if ended && jumps == self.world.jumps.load(Ordering::SeqCst) {
                    self.ledger.violated(format!("an expired message was given out: {item}"));
                }
                self.take(item, since, &mut order);
            }
            let next = page["next_after"].as_i64().unwrap();
            if page["more"] != true {
                return found;
            }
            if next <= after {
                self.ledger.violated(format!("the page after {after} leads to {next}"));
                return found;
            }
            after = next;
        }
    }

    fn take(&mut self, item: &Value, since: Moment, order: &mut Sequences) {
        self.ledger.received(self.index, item, since, order);
        let id: Uuid = serde_json::from_value(item["message_id"].clone()).unwrap();
        if !self.unacked.contains(&id) {
            self.unacked.push(id);
        }
    }

    // --- The socket -----------------------------------------------------------------------------------------------

    /// Opens a socket; the one before is left only then, so that the relay has to replace it.
    async fn move_to(&mut self, node: usize) {
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

    async fn listen(&mut self, time: Duration) {
        if self.open.is_none() {
            self.move_to(self.node).await;
        }
        let deadline = Instant::now() + time;
        while self.hear(deadline).await.is_some() {}
    }

    /// The next frame, noted; none at the deadline, or when the socket is gone.
    async fn hear(&mut self, deadline: Instant) -> Option<Value> {
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
    async fn burst(&mut self, to: usize, count: usize) {
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

    async fn ack(&mut self, most: usize, confirmed: bool) {
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

    async fn ack_over_rest(&mut self, ids: &[Uuid], most: usize) -> bool {
        let path = self.queue_path();
        let answer = if most.is_multiple_of(2) {
            self.ask(self.node, Method::DELETE, &path, Some(&json!(ids))).await
        } else {
            let body = json!({ "message_ids": ids });
            self.ask(self.node, Method::POST, &format!("{path}/ack"), Some(&body)).await
        };
        answer.is_some_and(|answer| answer.status == 200)
    }

    // --- The end of a history -------------------------------------------------------------------------------------

    /// Repeats every send that got no answer.
    pub(super) async fn settle_all(&mut self) {
        for (id, body) in self.ledger.own(self.index, |sent| sent.settled.is_none()) {
            self.settle(id, &body).await;
        }
    }

    /// Reads and acks everything that is left, over a fresh socket; nothing may be left then.
    pub(super) async fn drain(&mut self) {
        self.open = None;
        let deadline = Instant::now() + PATIENCE;
        loop {
            if Instant::now() > deadline {
                self.ledger.violated(format!("device {} was not drained within {PATIENCE:?}", self.index));
                return;
            }
            if self.open.is_none() {
                self.move_to(self.node + 1).await;
            }
            let drained = self.open.as_ref().is_some_and(|open| open.drained);
            if self.unacked.len() >= 40 || (drained && !self.unacked.is_empty()) {
                self.ack(1000, true).await;
            } else if drained {
                break;
            } else {
                self.hear(Instant::now() + Duration::from_millis(300)).await;
            }
        }
        if self.read_pages(100).await {
            self.ledger.violated(format!("something was left to device {} after it had acked", self.index));
        }
    }
}

/// A time as the relay writes it.
fn stamp(time: restante::domain::Timestamp) -> String {
    let nanos = i128::from(time.millis()) * 1_000_000;
    let time = ::time::OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap();
    let format = ::time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z"
    );
    time.format(&format).unwrap()
}
