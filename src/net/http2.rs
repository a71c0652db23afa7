//! HTTP/2 (RFC 9113), bounded: what actix brings offers its peers any number of streams and headers of 16 MiB each.
//!
//! Requests of a connection are answered by its own task, so that their number is known.

use std::{
    cell::Cell,
    cmp::min,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    time::{Duration, UNIX_EPOCH},
};

use actix_http::{
    BoxedPayloadStream, Payload, Request, Response,
    body::{BodySize, BoxBody, MessageBody},
    error::PayloadError,
    header,
};
use actix_server::GracefulShutdownSignal;
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{FuturesUnordered, unfold},
};
use h2::{
    Reason, RecvStream, SendStream,
    server::{Builder, Connection, SendResponse},
};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_rustls::server::TlsStream;

use super::pace::{Pace, Paced, SLICE};
use crate::domain::{Clock, SystemClock, Timestamp};

/// Streams that a peer may have open, as it is told (`SETTINGS_MAX_CONCURRENT_STREAMS`).
const STREAMS: u32 = 100;

/// Requests of a connection that are answered at a time. More than streams, because one that was reset is answered all
/// the same; past it nothing more is accepted, and a peer that goes on resetting is sent away.
const REQUESTS: usize = 128;

/// Bytes of a request's headers, as they are counted by RFC 9113, section 6.5.2.
const HEADERS: u32 = 32 << 10;

/// Bytes of a body that a peer may send ahead of what was read.
const STREAM_WINDOW: u32 = 256 << 10;

/// Bytes of all bodies of a connection that it may send ahead.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of an answer that wait for the connection.
const SEND_BUFFER: usize = SLICE;

/// How long a peer may take to go after it was told to.
const FAREWELL: Duration = Duration::from_secs(5);

/// How long a connection may take for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For its opening.
    pub(super) opening: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// To take an answer.
    pub(super) pace: Pace,
}

/// How an answer is given.
#[derive(Debug, Clone)]
struct Terms {
    pace: Pace,
    /// Whether the connection waits for its peer, and the answer with it.
    held_up: Rc<Cell<bool>>,
}

/// Serves a connection to its end.
pub(super) async fn serve<A, F>(
    stream: TlsStream<TcpStream>,
    peer: Option<SocketAddr>,
    answers: Rc<A>,
    patience: Patience,
    stop: GracefulShutdownSignal,
) -> Result<(), h2::Error>
where
    A: Fn(Request) -> F,
    F: Future<Output = Response<BoxBody>>,
{
    let stream = Paced::new(stream, patience.pace);
    let terms = Terms { pace: patience.pace, held_up: Rc::clone(stream.held_up()) };
    let opening = timeout(patience.opening, builder().handshake::<_, Bytes>(stream));
    let Ok(opened) = opening.await else { return Ok(()) };
    let mut connection = opened?;
    let mut requests = FuturesUnordered::new();
    let mut is_leaving = false;
    let mut deadline = Instant::now() + patience.idle;
    let mut stop = pin!(stop.notified());
    loop {
        let has_room = requests.len() < REQUESTS;
        tokio::select! {
            () = &mut stop, if !is_leaving => {
                is_leaving = true;
                deadline = Instant::now() + FAREWELL;
                connection.graceful_shutdown();
            }
            Some(()) = requests.next() => {
                let patience = if is_leaving { FAREWELL } else { patience.idle };
                deadline = Instant::now() + patience;
            }
            accepted = accept(&mut connection, has_room) => {
                let Some((request, respond)) = accepted.transpose()? else { return Ok(()) };
                requests.push(answer(Rc::clone(&answers), request, respond, peer, terms.clone()));
            }
            () = sleep_until(deadline), if requests.is_empty() => {
                // The peer was told before, and has not taken leave.
                if is_leaving {
                    return Ok(());
                }
                is_leaving = true;
                deadline = Instant::now() + FAREWELL;
                connection.graceful_shutdown();
            }
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADERS)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buffer_size(SEND_BUFFER);
    builder
}

type Asked = (http::Request<RecvStream>, SendResponse<Bytes>);

/// The next request, while there is room for one; none when the connection has ended. Keeps the connection going.
async fn accept(
    connection: &mut Connection<Paced<TlsStream<TcpStream>>, Bytes>,
    has_room: bool,
) -> Option<Result<Asked, h2::Error>> {
    if has_room {
        return connection.accept().await;
    }
    poll_fn(|cx| connection.poll_closed(cx)).await.err().map(Err)
}

async fn answer<A, F>(
    answers: Rc<A>,
    asked: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: Option<SocketAddr>,
    terms: Terms,
) where
    A: Fn(Request) -> F,
    F: Future<Output = Response<BoxBody>>,
{
    let is_head = asked.method() == http::Method::HEAD;
    let Some(request) = translated(asked, peer) else {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return;
    };
    let (response, body) = answers(request).await.into_parts();
    let Some(head) = head(&response, body.size()) else {
        respond.send_reset(Reason::INTERNAL_ERROR);
        return;
    };
    let is_whole = is_head || body.size().is_eof();
    // An error says that the peer does not want the answer any more.
    let Ok(stream) = respond.send_response(head, is_whole) else { return };
    if !is_whole {
        give(stream, body, &terms).await;
    }
}

/// The request as the application knows it. None for what the two libraries' types do not share.
fn translated(asked: http::Request<RecvStream>, peer: Option<SocketAddr>) -> Option<Request> {
    let (parts, body) = asked.into_parts();
    let mut request = Request::with_payload(Payload::Stream { payload: arriving(body) });
    let head = request.head_mut();
    head.method = actix_http::Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = actix_http::Uri::try_from(parts.uri.to_string()).ok()?;
    head.version = actix_http::Version::HTTP_2;
    head.peer_addr = peer;
    for (name, value) in &parts.headers {
        let name = header::HeaderName::from_bytes(name.as_ref()).ok()?;
        head.headers.append(name, header::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    // What HTTP/1.1 calls the host is the authority here (section 8.3.1).
    if let Some(authority) = parts.uri.authority() {
        head.headers.insert(header::HOST, header::HeaderValue::from_str(authority.as_str()).ok()?);
    }
    Some(request)
}

/// A request's body, whose window opens as it is read.
fn arriving(body: RecvStream) -> BoxedPayloadStream {
    Box::pin(unfold(body, |mut body| async move {
        let Ok(chunk) = body.data().await? else {
            return Some((Err(PayloadError::Incomplete(None)), body));
        };
        match body.flow_control().release_capacity(chunk.len()) {
            Ok(()) => Some((Ok(chunk), body)),
            Err(_) => Some((Err(PayloadError::Incomplete(None)), body)),
        }
    }))
}

/// An answer's head, without what HTTP/2 does not have (section 8.2.2).
fn head(response: &Response<()>, size: BodySize) -> Option<http::Response<()>> {
    let mut head = http::Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(response.status().as_u16()).ok()?;
    let headers = head.headers_mut();
    for (name, value) in response.headers() {
        let is_hop = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE].contains(name);
        if !is_hop && *name != header::CONTENT_LENGTH {
            let name = http::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
            headers.append(name, http::HeaderValue::from_bytes(value.as_bytes()).ok()?);
        }
    }
    // HTTP/1.1 has it from the library.
    let now = UNIX_EPOCH + SystemClock.now().since(Timestamp::from_millis(0));
    let date = header::HttpDate::from(now).to_string();
    headers.insert(http::header::DATE, http::HeaderValue::from_str(&date).ok()?);
    if let BodySize::Sized(length) = size {
        headers.insert(http::header::CONTENT_LENGTH, length.into());
    }
    Some(head)
}

/// Gives an answer's body as the peer takes it. One that takes nothing for too long, or too little, loses the rest.
async fn give(mut stream: SendStream<Bytes>, body: BoxBody, Terms { pace, held_up }: &Terms) {
    let due = pace.time_for(body.size()).map(|time| Instant::now() + time);
    let mut body = pin!(body);
    while let Some(chunk) = poll_fn(|cx| body.as_mut().poll_next(cx)).await {
        let Ok(mut chunk) = chunk else { return stream.send_reset(Reason::INTERNAL_ERROR) };
        while !chunk.is_empty() {
            stream.reserve_capacity(min(chunk.len(), SLICE));
            let stalled = Instant::now() + pace.stall;
            let latest = due.map_or(stalled, |due| due.min(stalled));
            let room = match timeout_at(latest, poll_fn(|cx| stream.poll_capacity(cx))).await {
                Ok(Some(Ok(room))) => room,
                Ok(Some(Err(_)) | None) => return,
                // Then its connection bounds it.
                Err(_) if held_up.get() && due.is_none_or(|due| Instant::now() < due) => continue,
                Err(_) => return stream.send_reset(Reason::CANCEL),
            };
            let slice = chunk.split_to(min(room, chunk.len()));
            // A copy: what waits for the connection after this has ended must not keep the whole answer.
            if stream.send_data(Bytes::copy_from_slice(&slice), false).is_err() {
                return;
            }
        }
    }
    // The peer may have gone meanwhile.
    stream.send_data(Bytes::new(), true).ok();
}

#[cfg(test)]
mod tests;
