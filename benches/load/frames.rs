//! Frames without a JSON library: text made once and patched, answers searched for the one field that counts.

use std::{
    net::SocketAddr,
    time::{Duration, Instant, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{FutureExt, SinkExt, StreamExt};
use rand::RngCore;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, client::IntoClientRequest, protocol::WebSocketConfig},
};
use uuid::{Builder, Uuid};

use crate::{Outcome, people::Person};

/// Message ids that tell when they were made and by whom, as UUIDs of version 7: no table of what is under way is
/// needed, and the store sees ids that rise with time, as it would from clients that follow RFC 9562.
#[derive(Clone, Copy)]
pub(crate) struct Stamps {
    start: Instant,
    start_micros: u64,
}

impl Stamps {
    #[expect(clippy::disallowed_methods, reason = "a bench lives in real time")]
    pub(crate) fn new() -> Outcome<Self> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        Ok(Self { start: Instant::now(), start_micros: u64::try_from(since.as_micros())? })
    }

    fn micros(self, at: Instant) -> u64 {
        let since = u64::try_from(at.saturating_duration_since(self.start).as_micros()).unwrap_or(u64::MAX);
        self.start_micros.saturating_add(since)
    }

    /// The id of a lane's message number `count`, sent at `at`.
    pub(crate) fn id(self, at: Instant, lane: u32, count: u32) -> Uuid {
        let micros = self.micros(at);
        let (millis, rest) = (micros / 1000, micros % 1000);
        let number = (u128::from(lane) << 32) | u128::from(count);
        let bits = (u128::from(millis) << 80) | (u128::from(rest) << 64) | number;
        Builder::from_u128(bits)
            .with_version(uuid::Version::SortRand)
            .with_variant(uuid::Variant::RFC4122)
            .into_uuid()
    }

    /// How long ago a message was sent, in microseconds.
    pub(crate) fn age(self, id: Uuid) -> u32 {
        let bits = id.as_u128();
        let (millis, rest) = ((bits >> 80), (bits >> 64) & 0xfff);
        let sent = u64::try_from(millis * 1000 + rest).unwrap_or_default();
        u32::try_from(self.micros(Instant::now()).saturating_sub(sent)).unwrap_or(u32::MAX)
    }
}

/// Which of its lane's messages this is.
pub(crate) fn count_of(id: Uuid) -> u32 {
    u32::try_from(id.as_u128() & 0xffff_ffff).unwrap_or_default()
}

/// A body in base64.
pub(crate) fn body(size: u32) -> String {
    let mut bytes = vec![0; size as usize];
    rand::rng().fill_bytes(&mut bytes);
    STANDARD.encode(bytes)
}

/// Everything of a send but its id.
pub(crate) fn send_head(kind: &str, recipient: Uuid, ciphertext: &str) -> String {
    format!(r#"{{{kind}"recipient_id":"{recipient}","ciphertext":"{ciphertext}","message_id":""#)
}

/// Everything of a send to a group but its id.
pub(crate) fn group_send_head(group: Uuid, ciphertext: &str) -> String {
    format!(r#"{{"type":"group_send","group_id":"{group}","ciphertext":"{ciphertext}","message_id":""#)
}

/// What a frame from the relay says, as far as it matters here.
#[derive(Debug)]
pub(crate) enum Heard {
    Sent(Uuid),
    Message(Uuid),
    /// An entry of a group's log, by its position.
    Entry(i64),
    /// So many messages are acked: the driver's `ref` of an ack is their number.
    Acked(u64),
    Drained,
    Error(String),
    Other,
}

/// Reads a frame.
pub(crate) fn read(text: &str) -> Heard {
    let kind = after(text, r#"{"type":""#).and_then(|rest| rest.split('"').next());
    let id = || after(text, r#""message_id":""#).and_then(|rest| Uuid::try_parse(rest.get(..36)?).ok());
    match kind {
        Some("sent") => id().map_or(Heard::Other, Heard::Sent),
        Some("message") => id().map_or(Heard::Other, Heard::Message),
        Some("group_entry") => {
            let position =
                after(text, r#""position":"#).and_then(|rest| rest.split(',').next()?.parse().ok());
            position.map_or(Heard::Other, Heard::Entry)
        }
        Some("acked") => {
            let count = after(text, r#""ref":""#).and_then(|rest| rest.split('"').next()?.parse().ok());
            count.map_or(Heard::Other, Heard::Acked)
        }
        Some("queue_drained") => Heard::Drained,
        Some("error") => Heard::Error(text.to_owned()),
        _ => Heard::Other,
    }
}

/// What follows the first occurrence of a mark. Marks lie near the start of frames, before the long body.
pub(crate) fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.find(mark).map(|at| &text[at + mark.len()..])
}

/// An ack of these messages.
pub(crate) fn ack(ids: &[Uuid]) -> String {
    let mut frame = format!(r#"{{"type":"ack","ref":"{}","message_ids":["#, ids.len());
    for (index, id) in ids.iter().enumerate() {
        frame.push_str(if index == 0 { "\"" } else { ",\"" });
        frame.push_str(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()));
        frame.push('"');
    }
    frame.push_str("]}");
    frame
}

/// An ack of the entries of a group up to a position, which nobody waits for.
pub(crate) fn ack_entries(group: Uuid, position: i64) -> String {
    format!(r#"{{"type":"ack","groups":{{"{group}":{position}}}}}"#)
}

/// A device's socket. Frames are gathered and flushed together.
pub(crate) struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    pub(crate) async fn open(address: SocketAddr, person: &Person) -> Outcome<Self> {
        let mut request = format!("ws://{address}/ws/me/me").into_client_request()?;
        let token = format!("Bearer {}", person.token).parse()?;
        request.headers_mut().insert("authorization", token);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let config = WebSocketConfig::default().read_buffer_size(16 << 10);
        let (socket, _) = client_async_with_config(request, stream, Some(config)).await?;
        Ok(Self(socket))
    }

    /// Puts a frame into the buffer.
    pub(crate) async fn feed(&mut self, text: String) -> Outcome<()> {
        Ok(self.0.feed(Message::Text(text.into())).await?)
    }

    /// Sends what was gathered.
    pub(crate) async fn flush(&mut self) -> Outcome<()> {
        Ok(self.0.flush().await?)
    }

    /// Waits for frames and hands all that have come to `hear`. Nothing is lost when the future is dropped.
    pub(crate) async fn hear(&mut self, mut hear: impl FnMut(Heard)) -> Outcome<()> {
        let mut next = self.0.next().await;
        loop {
            match next {
                Some(Ok(Message::Text(text))) => hear(read(&text)),
                Some(Ok(Message::Close(reason))) => return Err(format!("closed: {reason:?}").into()),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Err("the relay closed a socket".into()),
            }
            match self.0.next().now_or_never() {
                Some(more) => next = more,
                None => return Ok(()),
            }
        }
    }
}

/// The moments at which a lane sends: at once when there is no gap.
#[derive(Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) start: Instant,
    pub(crate) until: Instant,
    pub(crate) gap: Option<Duration>,
}

/// A timer's grain: being late by less is the driver's doing and not the relay's.
const GRAIN: Duration = Duration::from_millis(2);

impl Pace {
    /// What a message that was due then is stamped with: the moment it was due, if the lane was held up.
    pub(crate) fn stamp(due: Instant) -> Instant {
        let now = Instant::now();
        if now.saturating_duration_since(due) < GRAIN { now } else { due }
    }
}
