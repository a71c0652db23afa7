//! What a device does over REST.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::sleep};
use uuid::Uuid;

use super::{Actor, PATIENCE};
use crate::simulation::ledger::Sequences;
use crate::support::{
    client::Answer,
    crypto::{b64, opaque},
    faults::authority,
};

impl Actor {
    pub(super) async fn ask(
        &self,
        node: usize,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Option<Answer> {
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
    pub(super) async fn settle(&mut self, id: Uuid, body: &Value) {
        let path = self.send_path();
        match self.insist(Method::POST, &path, Some(body)).await {
            Some(answer) if matches!(answer.status, 200 | 201) => {
                self.ledger.accepted(id, &answer.body, answer.status == 201, false);
            }
            Some(refused) => self.ledger.violated(format!("a send was refused: {refused:?}")),
            None => {}
        }
    }

    pub(super) async fn repeat(&mut self, which: usize, altered: bool) {
        let own = self.ledger.own(self.index, |sent| sent.settled.is_some());
        let Some((id, body)) = own.get(which % own.len().max(1)).cloned() else { return };
        if !altered {
            return self.settle(id, &body).await;
        }
        let other = json!({
            "message_id": id,
            "recipient_id": body["recipient_id"],
            "ciphertext": b64(opaque(64)),
        });
        let path = self.send_path();
        let answer = self.insist(Method::POST, &path, Some(&other)).await;
        if let Some(answer) = answer.filter(|answer| answer.code() != "message-id-reused") {
            self.ledger.violated(format!("{id} with another body: {answer:?}"));
        }
    }

    /// Writes a send and goes away.
    pub(super) async fn hurry(&mut self, to: usize) {
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

    pub(super) async fn delete(&mut self, which: usize) {
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

    pub(super) fn queue_path(&self) -> String {
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

    pub(super) async fn ack_over_rest(&mut self, ids: &[Uuid], most: usize) -> bool {
        let path = self.queue_path();
        let answer = if most.is_multiple_of(2) {
            self.ask(self.node, Method::DELETE, &path, Some(&json!(ids))).await
        } else {
            let body = json!({ "message_ids": ids });
            self.ask(self.node, Method::POST, &format!("{path}/ack"), Some(&body)).await
        };
        answer.is_some_and(|answer| answer.status == 200)
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
