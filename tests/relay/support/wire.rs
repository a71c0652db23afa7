//! A WebSocket peer that speaks by the byte, for what no library sends.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::{client::Device, faults::authority};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection after the upgrade.
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// A frame as it stands on the wire.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WireFrame {
    pub(crate) opcode: u8,
    pub(crate) payload: Vec<u8>,
}

impl WireFrame {
    pub(crate) fn close_code(&self) -> Option<u16> {
        let code = self.payload.first_chunk::<2>().filter(|_| self.opcode == 8)?;
        Some(u16::from_be_bytes(*code))
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload).unwrap()
    }
}

impl Wire {
    /// Opens a socket of a device that gives the kernel as little room as it takes.
    pub(crate) async fn open(device: &Device) -> Self {
        Self::open_with(device, |socket| {
            socket.set_recv_buffer_size(4096).unwrap();
            // A small segment keeps the sender's own buffer small too.
            socket2::SockRef::from(socket).set_tcp_mss(1000).unwrap();
        })
        .await
    }

    /// Opens a socket of a device over a connection that was prepared so.
    pub(crate) async fn open_with(device: &Device, prepare: impl Fn(&TcpSocket)) -> Self {
        let address = authority(&device.base).parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        prepare(&socket);
        let mut stream = socket.connect(address).await.unwrap();
        let request = format!(
            "GET /ws/{}/{} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
             Authorization: Bearer {}\r\n\r\n",
            device.user_id, device.device_id, device.access_token
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut wire = Self { stream, buffer: Vec::new() };
        let head = wire.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        wire
    }

    async fn head(&mut self) -> String {
        loop {
            if let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                let head: Vec<_> = self.buffer.drain(..end + 4).collect();
                return String::from_utf8(head).unwrap();
            }
            assert!(self.more().await, "the relay closed before the upgrade");
        }
    }

    /// Reads more; false at the end of the connection.
    async fn more(&mut self) -> bool {
        let mut chunk = [0; 4096];
        let read = timeout(PATIENCE, self.stream.read(&mut chunk)).await.expect("the relay says something");
        let read = read.unwrap_or(0);
        self.buffer.extend_from_slice(&chunk[..read]);
        read > 0
    }

    /// Sends bytes; an error means that the relay has closed.
    pub(crate) async fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("the relay takes bytes")
    }

    /// The next frame; none at the end of the connection.
    pub(crate) async fn next(&mut self) -> Option<WireFrame> {
        loop {
            if let Some(frame) = self.take() {
                return Some(frame);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    fn take(&mut self) -> Option<WireFrame> {
        let (first, second) = (*self.buffer.first()?, *self.buffer.get(1)?);
        let (start, length) = match second {
            126 => (4, usize::from(u16::from_be_bytes(*self.buffer.get(2..)?.first_chunk()?))),
            127 => (10, usize::try_from(u64::from_be_bytes(*self.buffer.get(2..)?.first_chunk()?)).unwrap()),
            short => (2, usize::from(short)),
        };
        let payload = self.buffer.get(start..start + length)?.to_vec();
        self.buffer.drain(..start + length);
        Some(WireFrame { opcode: first & 0x0f, payload })
    }

    /// The next text frame of this type.
    pub(crate) async fn expect(&mut self, kind: &str) -> serde_json::Value {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let frame = self.next().await.expect("the socket is open");
            assert_ne!(frame.opcode, 8, "closed with {:?} before {kind}", frame.close_code());
            if frame.opcode == 1 && frame.json()["type"] == kind {
                return frame.json();
            }
        }
        panic!("no {kind}");
    }

    /// Reads to the end of the connection: the code of the close frame, if one came.
    pub(crate) async fn ended(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some(frame) = self.next().await {
            code = code.or(frame.close_code());
        }
        code
    }
}

/// A frame of a client: first byte, payload, masked.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = announced(first, payload.len() as u64);
    frame.extend_from_slice(payload);
    frame
}

/// The head of a client's frame that announces a length; its mask is zero.
pub(crate) fn announced(first: u8, length: u64) -> Vec<u8> {
    let mut frame = vec![first];
    match length {
        0..126 => frame.push(0x80 | u8::try_from(length).unwrap()),
        126..65_536 => {
            frame.push(0xfe);
            frame.extend_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        }
        _ => {
            frame.push(0xff);
            frame.extend_from_slice(&length.to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame
}
