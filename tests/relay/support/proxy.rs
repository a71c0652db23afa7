//! A TCP proxy that does to connections what networks do to them.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What a proxy does with what it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Passes it on.
    Open,
    /// Takes it and passes nothing on, in either direction.
    Swallows,
    /// Ends every connection.
    Cut,
    /// Passes it on, this much later.
    Late(Duration),
    /// Passes requests on; the answer to one that holds these bytes is lost, and the connection with it.
    Unanswered(&'static [u8]),
}

/// A TCP proxy in front of a service.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    service: Arc<Mutex<String>>,
    line: Arc<watch::Sender<Line>>,
    since: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Proxy {
    /// A proxy to `host:port`.
    pub(crate) async fn to(service: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(watch::Sender::new(Line::Open));
        let since = Arc::<AtomicUsize>::default();
        let service = Arc::new(Mutex::new(service.to_owned()));
        let (there, state, renewed) = (Arc::clone(&service), Arc::clone(&line), Arc::clone(&since));
        let serving = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let born = renewed.load(Ordering::SeqCst);
                let (line, renewed) = (state.subscribe(), Arc::clone(&renewed));
                let carrier = Carrier { line, renewed, born, doomed: AtomicBool::new(false) };
                let service = there.lock().unwrap().clone();
                tokio::spawn(carrier.carry(client, service));
            }
        });
        Self { address, service, line, since, serving }
    }

    pub(crate) fn turn(&self, line: Line) {
        self.line.send_replace(line);
    }

    /// Passes new connections on; those from before stay as they are.
    pub(crate) fn renew(&self) {
        self.since.fetch_add(1, Ordering::SeqCst);
        self.line.send_replace(Line::Open);
    }

    /// Passes new connections on to another place.
    pub(crate) fn lead_to(&self, service: SocketAddr) {
        *self.service.lock().unwrap() = service.to_string();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// One connection through a proxy.
struct Carrier {
    line: watch::Receiver<Line>,
    renewed: Arc<AtomicUsize>,
    born: usize,
    /// The next answer is lost.
    doomed: AtomicBool,
}

impl Carrier {
    async fn carry(self, client: TcpStream, service: String) {
        let mut cut = self.line.clone();
        let both = async {
            let server = TcpStream::connect(&service).await?;
            // What is passed on in pieces must not wait for the peer's acknowledgement.
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::select! {
                done = self.ask(&mut from_client, &mut to_server) => done,
                done = self.answer(&mut from_server, &mut to_client) => done,
            }
        };
        tokio::select! {
            // Either way the connections end here.
            _ = both => {}
            _ = cut.wait_for(|line| *line == Line::Cut) => {}
        }
    }

    async fn ask(
        &self,
        from: &mut (impl AsyncReadExt + Unpin),
        to: &mut (impl AsyncWriteExt + Unpin),
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 {
                return Ok(());
            }
            if let Line::Unanswered(marker) = self.current()
                && (marker.is_empty() || buffer[..read].windows(marker.len()).any(|bytes| bytes == marker))
            {
                self.doomed.store(true, Ordering::SeqCst);
            }
            self.pass(&buffer[..read], to).await?;
        }
    }

    async fn answer(
        &self,
        from: &mut (impl AsyncReadExt + Unpin),
        to: &mut (impl AsyncWriteExt + Unpin),
    ) -> std::io::Result<()> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut buffer).await?;
            if read == 0 || self.doomed.load(Ordering::SeqCst) {
                return Ok(());
            }
            self.pass(&buffer[..read], to).await?;
        }
    }

    async fn pass(&self, bytes: &[u8], to: &mut (impl AsyncWriteExt + Unpin)) -> std::io::Result<()> {
        match self.current() {
            Line::Open | Line::Unanswered(_) => to.write_all(bytes).await,
            Line::Late(delay) => {
                tokio::time::sleep(delay).await;
                to.write_all(bytes).await
            }
            Line::Swallows | Line::Cut => Ok(()),
        }
    }

    /// What is done to this connection: one from before a renewal stays silent.
    fn current(&self) -> Line {
        if self.renewed.load(Ordering::SeqCst) == self.born { *self.line.borrow() } else { Line::Swallows }
    }
}
