//! A WebSocket client: frames in JSON or MessagePack, and raw access for abuse.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout_at};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest, http::HeaderValue},
};

use super::{client::Device, packed, told};

/// How long a frame is waited for.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Json,
    MessagePack,
}

/// How the token travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// In `Authorization`.
    Header,
    /// In the list of subprotocols, as browsers must.
    Subprotocol,
    /// As a ticket in the list of subprotocols.
    Ticket,
}

/// A connected socket.
pub struct Socket {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    format: Format,
    /// Frames that were read while another was waited for.
    kept: VecDeque<Value>,
    /// The subprotocol that the relay selected.
    pub protocol: Option<String>,
}

/// How long a client waits before it tries again.
const RETRY: Duration = Duration::from_millis(200);

/// What arrives on a socket.
#[derive(Debug)]
pub enum Incoming {
    Frame(Value),
    /// Closed, with the code if one came.
    Closed(Option<u16>),
}

impl Socket {
    /// Opens a JSON socket of a device and takes its `hello`; tries again, as clients do, when the relay asks for that
    /// (1013).
    pub async fn open(device: &Device) -> Self {
        for _ in 0..5 {
            let mut socket = Self::connect(device, Format::Json, Door::Header).await.unwrap();
            match socket.read(Instant::now() + PATIENCE).await {
                Some(Incoming::Frame(hello)) if hello["type"] == "hello" => return socket,
                Some(Incoming::Closed(Some(1013))) => tokio::time::sleep(RETRY).await,
                other => panic!("no hello, but {other:?}"),
            }
        }
        panic!("the relay asked again and again to try again")
    }

    /// Opens a socket; the error is what the relay answered instead.
    pub async fn connect(device: &Device, format: Format, door: Door) -> Result<Self, tungstenite::Error> {
        let path = format!("/ws/{}/{}", device.user_id, device.device_id);
        Self::connect_to(&device.base, &path, &device.access_token, format, door).await
    }

    pub async fn connect_to(
        base: &str,
        path: &str,
        token: &str,
        format: Format,
        door: Door,
    ) -> Result<Self, tungstenite::Error> {
        let mut request = format!("{}{path}", base.replacen("http", "ws", 1)).into_client_request()?;
        let protocol = match format {
            Format::Json => "restante.v1",
            Format::MessagePack => "restante.v1.msgpack",
        };
        let headers = request.headers_mut();
        let offered = match door {
            Door::Header => {
                headers.insert("authorization", HeaderValue::try_from(format!("Bearer {token}")).unwrap());
                protocol.to_owned()
            }
            Door::Subprotocol => format!("{protocol}, bearer.{token}"),
            Door::Ticket => format!("{protocol}, ticket.{token}"),
        };
        headers.insert("sec-websocket-protocol", HeaderValue::try_from(offered).unwrap());
        let (stream, answer) = connect_async(request).await?;
        let selected = answer.headers().get("sec-websocket-protocol");
        let protocol = selected.map(|protocol| protocol.to_str().unwrap().to_owned());
        Ok(Self { stream, format, kept: VecDeque::new(), protocol })
    }

    /// Sends a frame in the socket's format. Base64 texts of the named fields become bytes in MessagePack.
    pub async fn send(&mut self, frame: &Value) {
        let message = match self.format {
            Format::Json => Message::text(frame.to_string()),
            Format::MessagePack => Message::binary(packed::pack(frame)),
        };
        self.stream.send(message).await.unwrap();
    }

    /// Sends anything, well-formed or not.
    pub async fn send_raw(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        self.stream.send(message).await
    }

    /// The stream itself.
    pub fn raw(&mut self) -> &mut WebSocketStream<MaybeTlsStream<TcpStream>> {
        &mut self.stream
    }

    pub async fn ack(&mut self, message_ids: &[&Value]) {
        let reference = uuid::Uuid::new_v4().to_string();
        self.send(&json!({ "type": "ack", "ref": reference, "message_ids": message_ids })).await;
        self.expect_where("acked", |frame| frame["ref"] == reference.as_str()).await;
    }

    /// The next frame of this type; what comes before it is kept for later.
    #[track_caller]
    pub fn expect(&mut self, kind: &str) -> impl Future<Output = Value> {
        self.expect_where(kind, |_| true)
    }

    /// The next frame of this type that also answers to `fits`.
    pub async fn expect_where(&mut self, kind: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let fits = |frame: &Value| frame["type"] == kind && fits(frame);
        if let Some(index) = self.kept.iter().position(fits) {
            return self.kept.remove(index).unwrap();
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read(deadline).await {
                Some(Incoming::Frame(frame)) if fits(&frame) => return frame,
                Some(Incoming::Frame(frame)) => self.kept.push_back(frame),
                Some(Incoming::Closed(code)) => panic!("closed with {code:?} before {kind} came"),
                None => panic!("no {kind} in {PATIENCE:?}; there came {:?}", self.kept),
            }
        }
    }

    /// The next frame, whatever it is.
    pub async fn next(&mut self) -> Value {
        if let Some(frame) = self.kept.pop_front() {
            return frame;
        }
        match self.read(Instant::now() + PATIENCE).await {
            Some(Incoming::Frame(frame)) => frame,
            other => panic!("no frame: {other:?}"),
        }
    }

    /// Frames up to one of this type, which is left out.
    pub async fn until(&mut self, kind: &str) -> Vec<Value> {
        let mut frames = Vec::new();
        loop {
            let frame = self.next().await;
            if frame["type"] == kind {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// The code with which the relay closes, whatever comes before.
    pub async fn closed(&mut self) -> Option<u16> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.read(deadline).await {
                Some(Incoming::Closed(code)) => return code,
                Some(Incoming::Frame(frame)) => self.kept.push_back(frame),
                None => panic!("not closed in {PATIENCE:?}"),
            }
        }
    }

    /// What arrives before the deadline.
    pub async fn read(&mut self, deadline: Instant) -> Option<Incoming> {
        loop {
            let next = timeout_at(deadline.into(), self.stream.next()).await.ok()?;
            return Some(match next {
                Some(Ok(Message::Text(text))) => Self::frame(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Binary(bytes))) => Self::frame(packed::unpack(&bytes)),
                Some(Ok(Message::Close(close))) => Incoming::Closed(close.map(|close| close.code.into())),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                Some(Err(_)) | None => Incoming::Closed(None),
            });
        }
    }

    fn frame(frame: Value) -> Incoming {
        told::assert_told(&frame);
        Incoming::Frame(frame)
    }

    pub async fn close(mut self) {
        // The peer may be gone already.
        let _ = self.stream.close(None).await;
    }
}
