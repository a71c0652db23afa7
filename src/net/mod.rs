//! Connections: accepted, secured, bounded in time and number, and handed to the application as requests.
//!
//! proto-docs/transport.md tells what is bounded by what.

mod http2;
mod line;
mod pace;
mod peers;
mod tls;

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::{IpAddr, SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use actix_http::{Extensions, HttpService, Protocol, Request, Response, body::BoxBody, error::DispatchError};
use actix_server::{GracefulShutdownSignal, Server};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, fn_factory, fn_service};
use actix_web::{
    Error,
    body::MessageBody,
    dev::{AppConfig, ServiceResponse},
    http::KeepAlive,
};
use ipnet::IpNet;
use line::{Answer, Answering, Line, Patience, Stream, Turn};
use pace::Pace;
use peers::Peers;
use rustls::{ServerConfig, server::Acceptor};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::{
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

pub use line::Giving;
pub use tls::{Certificate, TlsFault};

use crate::{
    config::Transport,
    domain::Network,
    shares::{Share, Shares},
};

/// The most workers that the library takes.
const MOST_WORKERS: usize = 512;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// Bytes that the kernel keeps for a peer that does not read (it doubles the figure for its own overhead). Left to itself
/// it keeps megabytes, which a session does not see and nobody bounds.
const SEND_BUFFER: u32 = 256 << 10;

/// How long a peer may take to end a connection that we have ended.
const GOODBYE: Duration = Duration::from_secs(1);

/// By how much longer the kernel keeps a peer that takes nothing than a session does.
const AFTER_STALL: Duration = Duration::from_secs(5);

/// By how much the library's own time for a first request is shorter than ours: it answers 408 before it ends the
/// connection.
const BEFORE_OURS: Duration = Duration::from_secs(1);

/// The part of all handshakes that one network may have under way.
const HANDSHAKE_PART: usize = 4;

/// How connections are taken.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Worker threads; 0 means one for each core.
    pub workers: usize,
    /// Their times and numbers.
    pub transport: Transport,
    /// Networks of proxies, whose connections are not counted for their network.
    pub proxies: Vec<IpNet>,
    /// How long a peer may take nothing of what it is sent.
    pub stall: Duration,
    /// How long a stop waits for answers in flight.
    pub shutdown: Duration,
    /// What secures connections; without it they are in the clear.
    pub certificate: Option<Arc<Certificate>>,
}

/// Takes an address, which fails if somebody else has it.
///
/// # Errors
/// When it cannot be listened on.
pub fn bind(address: SocketAddr) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// Serves what `application` makes, one for each worker, to whoever connects to the listener.
///
/// # Errors
/// When the listener or the certificate cannot be used.
pub fn serve<F, I, S, B>(listener: TcpListener, terms: &Terms, application: F) -> io::Result<Server>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request> + 'static,
    S: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse<B>, Error = Error> + 'static,
    S::InitError: std::fmt::Debug,
    B: MessageBody + 'static,
{
    let workers = match terms.workers {
        0 => std::thread::available_parallelism().map_or(2, usize::from).min(MOST_WORKERS),
        workers => workers.min(MOST_WORKERS),
    };
    let security = terms.certificate.as_ref().map(Certificate::server_config);
    let security = security.transpose().map_err(io::Error::other)?.map(Arc::new);
    let handshakes = Handshakes::of(terms.transport.max_handshakes);
    let peers = Peers::new(terms.transport.max_connections_per_address, terms.proxies.clone());
    let builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(terms.transport.max_connections.div_ceil(workers))
        .shutdown_timeout(terms.shutdown.as_secs())
        .disable_signals();
    let stop = builder.graceful_shutdown_signal();
    let (transport, stall) = (terms.transport.clone(), terms.stall);
    let reception = move || {
        let (application, stop) = (application.clone(), stop.clone());
        let door = Door {
            security: security.clone(),
            peers: Arc::clone(&peers),
            handshakes: handshakes.clone(),
            transport: transport.clone(),
            stall,
        };
        fn_factory(move || receive(application(), door.clone(), stop.clone()))
    };
    Ok(builder.listen("restante", listener, reception)?.run())
}

/// What a connection passes before its first request.
#[derive(Clone)]
struct Door {
    security: Option<Arc<ServerConfig>>,
    peers: Arc<Peers>,
    handshakes: Handshakes,
    transport: Transport,
    stall: Duration,
}

/// The handshakes that may be under way in the process.
#[derive(Clone)]
struct Handshakes {
    all: Arc<Semaphore>,
    networks: Arc<Shares<Network>>,
}

impl Handshakes {
    fn of(most: usize) -> Self {
        let networks = Shares::of_each(most.div_ceil(HANDSHAKE_PART));
        Self { all: Arc::new(Semaphore::new(most)), networks }
    }

    /// Waits for a place among those of a network, if it is one that counts, and then among all.
    async fn place(
        &self,
        network: Option<Network>,
    ) -> Option<(Option<Share<Network>>, OwnedSemaphorePermit)> {
        let mut share = network.map(|network| self.networks.share(network));
        if let Some(share) = &mut share {
            share.take(1).await;
        }
        Some((share, Arc::clone(&self.all).acquire_owned().await.ok()?))
    }
}

/// The service of one worker: a connection to its end.
async fn receive<I, S, B>(
    application: I,
    door: Door,
    stop: GracefulShutdownSignal,
) -> Result<impl Service<TcpStream, Response = (), Error = ()>, ()>
where
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse<B>, Error = Error> + 'static,
    S::InitError: std::fmt::Debug,
    B: MessageBody + 'static,
{
    let application = application.into_factory().new_service(AppConfig::default()).await;
    let application = Rc::new(application.map_err(|error| tracing::error!(?error, "a worker cannot start"))?);
    let answers = Rc::new(move |request| answered(Rc::clone(&application), request));
    let http1 = Rc::new(http1(Rc::clone(&answers), &door, stop.clone()).new_service(()).await?);
    let door = Rc::new(door);
    Ok(fn_service(move |stream: TcpStream| {
        let (door, stop) = (Rc::clone(&door), stop.clone());
        let (http1, answers) = (Rc::clone(&http1), Rc::clone(&answers));
        // Boxed, because the library keeps room for it twice.
        Box::pin(async move {
            // Who has hung up already has no address, and nobody may be served whom no limit knows.
            let peer = stream.peer_addr().map_err(|_| ())?;
            let _place = door.peers.admit(peer.ip()).ok_or(())?;
            let times = &door.transport;
            let opened = door.open(stream, peer.ip()).await.ok_or(())?;
            let peer = Some(peer);
            match opened {
                Opened::Http1(stream) => {
                    let line = Line::new(stream, Patience { begun: times.head, idle: times.idle });
                    http1.call((line, Protocol::Http1, peer)).await.map_err(|_| ())
                }
                Opened::Http2(stream) => {
                    let pace = door.pace();
                    let patience = http2::Patience { opening: times.head, idle: times.idle, pace };
                    // Boxed, as the handshake is, so that connections without them stay small.
                    let served = Box::pin(http2::serve(*stream, peer, answers, patience, stop)).await;
                    served.map_err(|error| tracing::debug!(%error, "an HTTP/2 connection broke"))
                }
            }
        })
    }))
}

/// The application's answer. What it raised is an answer too.
async fn answered<S, B>(application: Rc<S>, request: Request) -> Response<BoxBody>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody + 'static,
{
    match application.call(request).await {
        Ok(response) => Response::from(response).map_body(|_, body| body.boxed()),
        Err(error) => Response::from(error),
    }
}

/// The library's HTTP/1.1, over lines of ours.
fn http1<A, F>(
    answers: Rc<A>,
    door: &Door,
    stop: GracefulShutdownSignal,
) -> impl ServiceFactory<
    (Line, Protocol, Option<SocketAddr>),
    Config = (),
    Response = (),
    Error = DispatchError,
    InitError = (),
> + use<A, F>
where
    A: Fn(Request) -> F + 'static,
    F: Future<Output = Response<BoxBody>> + 'static,
{
    let (times, pace) = (&door.transport, door.pace());
    let application = fn_service(move |request: Request| {
        let turn = request.conn_data::<Rc<Turn>>().map(Answering::on);
        // Boxed: as long as a body is given, and a socket's is while it is open, the connection has no room for this.
        let answer = Box::pin(answers(request));
        async move { Ok::<_, Infallible>(answer.await.map_body(|_, body| Answer::new(body, turn, pace))) }
    });
    HttpService::build()
        // What the library's own server is built with; hidden, but the only way to end idle connections at a stop.
        .graceful_shutdown_signal(move || {
            let stop = stop.clone();
            async move { stop.notified().await }
        })
        .on_connect_ext(|line: &Line, data: &mut Extensions| {
            data.insert(Rc::clone(line.turn()));
        })
        .keep_alive(KeepAlive::Timeout(times.idle))
        .client_request_timeout(times.head.saturating_sub(BEFORE_OURS))
        .client_disconnect_timeout(GOODBYE)
        .finish(application)
}

/// A connection that may ask.
enum Opened {
    Http1(Stream),
    Http2(Box<TlsStream<TcpStream>>),
}

impl Door {
    const fn pace(&self) -> Pace {
        Pace { stall: self.stall, least: self.transport.least_pace }
    }

    /// Bounds what the kernel keeps of a connection, and secures it. None when the handshake failed or took too long.
    async fn open(&self, stream: TcpStream, peer: IpAddr) -> Option<Opened> {
        if let Err(error) = self.bound(&stream) {
            tracing::debug!(%error, "a connection keeps the system's own bounds");
        }
        let Some(security) = &self.security else { return Some(Opened::Http1(Stream::Plain(stream))) };
        let handshake = Box::pin(async {
            // Who says nothing costs nothing, and takes no place of those who do.
            let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await.ok()?;
            let _place = self.handshakes.place(self.peers.counted(peer)).await?;
            begun.into_stream(Arc::clone(security)).await.ok()
        });
        let stream = Box::new(timeout(self.transport.handshake, handshake).await.ok()??);
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Some(if is_http2 { Opened::Http2(stream) } else { Opened::Http1(Stream::Secured(stream)) })
    }

    fn bound(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(stream);
        // The kernel gives up a peer that takes nothing, some time after the session has.
        socket.set_tcp_user_timeout(Some(self.stall + AFTER_STALL))?;
        socket.set_send_buffer_size(SEND_BUFFER as usize)
    }
}
