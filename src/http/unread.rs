//! Answers that wait for their peers to take them: how many of a device, how many bytes of the process.
//!
//! A request that looks takes a turn of its device before anything is read for it, and a page the bytes that it may need.
//! Both are given back when the answer turns out small, was taken, or is given up. proto-docs/transport.md tells the bounds.

use std::{
    cell::RefCell,
    future::{Future, Ready, ready},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use actix_web::{
    FromRequest, HttpMessage, HttpRequest, HttpResponse,
    body::{BodySize, BoxBody, EitherBody, MessageBody},
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::Method,
    middleware::Next,
    web,
};
use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout_at},
};

use super::{
    CallerAddress, Problem, Recognise,
    shares::{Share, Shares},
};
use crate::{
    abuse::Verb,
    domain::{DeviceNo, Network},
    metrics,
};

/// Answers that a device may be given at the same time; the next waits its turn.
const TURNS: usize = 2;

/// How long a request waits for its turn and its bytes.
const WAIT: Duration = Duration::from_secs(5);

/// The longest answer that is not counted.
const SMALL: u64 = 64 << 10;

/// In what bytes are counted.
const UNIT: usize = 1 << 10;

/// The part of all bytes that one network may have.
const NETWORK_SHARE: usize = 4;

/// The limit's name in figures.
const LIMIT: &str = "answers";

/// What all answers together may hold.
pub struct Unread {
    bytes: Arc<Semaphore>,
    devices: Arc<Shares<DeviceNo>>,
    networks: Arc<Shares<Network>>,
    /// Units of one network, and so the most of one answer.
    most: usize,
}

impl Unread {
    /// Answers of so many bytes may wait in the process.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        for of in ["device", "network", "process"] {
            metrics::limit_tripped(LIMIT, of, 0);
        }
        let units = (bytes / UNIT).clamp(NETWORK_SHARE, Semaphore::MAX_PERMITS);
        let most = (units / NETWORK_SHARE).min(u32::MAX as usize);
        Self {
            bytes: Arc::new(Semaphore::new(units)),
            devices: Shares::of_each(TURNS),
            networks: Shares::of_each(most),
            most,
        }
    }

    /// Units for so many bytes, as far as one answer can have them.
    fn units(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.div_ceil(UNIT).min(self.most)).unwrap_or(u32::MAX)
    }
}

/// What an answer holds until it was taken.
#[derive(Default)]
struct Held {
    turn: Option<Share<DeviceNo>>,
    of_network: Option<Share<Network>>,
    bytes: Option<OwnedSemaphorePermit>,
}

impl Held {
    fn units(&self) -> usize {
        self.bytes.as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Gives back what is more than these units.
    fn keep(&mut self, units: usize) {
        let more = self.units().saturating_sub(units);
        if let Some(bytes) = &mut self.bytes {
            drop(bytes.split(more));
        }
        if let Some(of_network) = &mut self.of_network {
            of_network.keep(units);
        }
    }
}

/// What the answer to a request may hold; a route that reads much asks for it first.
#[derive(Clone)]
pub struct Allowance {
    unread: web::Data<Unread>,
    network: Option<Network>,
    held: Rc<RefCell<Held>>,
}

impl Allowance {
    /// Waits until an answer with so many bytes in base64 may be read. To be asked once, before they are. Tells whether there
    /// was a wait, after which what was known before may be out of date.
    ///
    /// # Errors
    /// 503 `overloaded` when too much waits for other peers.
    pub async fn reserve(&self, bytes: usize) -> Result<bool, Problem> {
        let mut reserved = pin!(self.reserve_until(bytes, Instant::now() + WAIT));
        // Most do not wait.
        if let Some(at_once) = (&mut reserved).now_or_never() {
            return at_once.map(|()| false);
        }
        reserved.await.map(|()| true)
    }

    async fn reserve_until(&self, bytes: usize, deadline: Instant) -> Result<(), Problem> {
        let units = self.unread.units(bytes.div_ceil(3) * 4);
        // Its own network first, so that nobody waits in everybody's line for what the network may not have.
        if let Some(network) = self.network {
            let mut share = self.unread.networks.share(network);
            in_time(deadline, "network", share.take(units)).await?;
            self.held.borrow_mut().of_network = Some(share);
        }
        let bytes = Arc::clone(&self.unread.bytes).acquire_many_owned(units);
        let bytes = in_time(deadline, "process", async { bytes.await.ok() }).await?;
        self.held.borrow_mut().bytes = bytes;
        Ok(())
    }

    async fn take_turn(&self, device: DeviceNo) -> Result<(), Problem> {
        let mut turn = self.unread.devices.share(device);
        in_time(Instant::now() + WAIT, "device", turn.take(1)).await?;
        self.held.borrow_mut().turn = Some(turn);
        Ok(())
    }

    /// What an answer of this size goes on holding; none when it is small, or belongs to no device and reserved nothing:
    /// such answers are the same for everybody, and there once.
    fn settle(&self, size: BodySize) -> Option<Held> {
        let mut held = self.held.take();
        let length = match size {
            BodySize::Sized(length) if length > SMALL => usize::try_from(length).unwrap_or(usize::MAX),
            BodySize::None | BodySize::Sized(_) | BodySize::Stream => return None,
        };
        if held.turn.is_none() && held.bytes.is_none() {
            return None;
        }
        let units = self.unread.units(length);
        held.keep(units as usize);
        // What was not foreseen is counted while there is something left. The answer is made, perhaps of keys that are never
        // handed out again: nobody is better off if it is thrown away.
        let missing = units.saturating_sub(u32::try_from(held.units()).unwrap_or(u32::MAX));
        if let Ok(more) = Arc::clone(&self.unread.bytes).try_acquire_many_owned(missing) {
            match &mut held.bytes {
                Some(bytes) => bytes.merge(more),
                none => *none = Some(more),
            }
        }
        Some(held)
    }
}

impl FromRequest for Allowance {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let found = request.extensions().get::<Self>().cloned();
        ready(found.ok_or_else(|| Problem::new(500, "internal", "the relay is not set up")))
    }
}

async fn in_time<T>(
    deadline: Instant,
    of: &'static str,
    taken: impl Future<Output = T>,
) -> Result<T, Problem> {
    timeout_at(deadline, taken).await.map_err(|_| {
        metrics::limit_tripped(LIMIT, of, 1);
        let detail = "too many answers wait to be taken; nothing was done, repeat the request";
        Problem::unavailable("overloaded", detail)
    })
}

/// Lets a device's requests that look in by turns, and has large answers hold what they take until they were given.
pub async fn hold<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, actix_web::Error> {
    let Some(unread) = request.app_data::<web::Data<Unread>>().cloned() else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let network = CallerAddress::of(request.request()).map(|address| address.network());
    let allowance = Allowance { unread, network, held: Rc::default() };
    if let Some(device) = looks(request.request()).then(|| recognised(request.request())).flatten()
        && let Err(problem) = allowance.take_turn(device).await
    {
        return Ok(request.into_response(HttpResponse::from_error(problem)).map_into_right_body());
    }
    request.extensions_mut().insert(allowance.clone());
    let response = next.call(request).await.inspect_err(|_| drop(allowance.held.take()))?;
    Ok(match allowance.settle(response.response().body().size()) {
        Some(held) => response
            .map_body(|_, body| EitherBody::right(BoxBody::new(Holding { body: body.boxed(), _held: held }))),
        None => response.map_into_left_body(),
    })
}

/// Whether the answer to a request is what it is for, and may be long.
fn looks(request: &HttpRequest) -> bool {
    let is_get = *request.method() == Method::GET;
    let verb = Verb::of(is_get, request.match_info().as_str(), false);
    matches!(verb, Some(Verb::Read | Verb::Keys))
}

fn recognised(request: &HttpRequest) -> Option<DeviceNo> {
    let recognise = request.app_data::<web::Data<Recognise>>()?;
    (recognise.0)(request)
}

/// A body that holds what it takes until it was given, or dropped.
struct Holding {
    body: BoxBody,
    _held: Held,
}

impl MessageBody for Holding {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.body).poll_next(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn allowance(unread: &web::Data<Unread>, last: u8) -> Allowance {
        let network = Network::of(IpAddr::from([192, 0, 2, last]));
        Allowance { unread: unread.clone(), network: Some(network), held: Rc::default() }
    }

    #[tokio::test]
    async fn the_process_has_so_many_bytes_and_a_network_a_quarter_of_them() {
        let unread = web::Data::new(Unread::new(16 << 20));
        let three = 3 << 20;
        let held: Vec<_> = (1..=4).map(|last| allowance(&unread, last)).collect();
        for allowance in &held {
            assert!(!allowance.reserve(three).await.unwrap(), "four megabytes in base64, at once");
        }
        assert_eq!(allowance(&unread, 5).reserve(UNIT).await.unwrap_err().code(), "overloaded");
        // An answer that turns out small holds nothing, and one of a megabyte that.
        assert!(held[0].settle(BodySize::Sized(SMALL)).is_none());
        let large = held[1].settle(BodySize::Sized(1 << 20)).unwrap();
        assert_eq!((large.units(), unread.bytes.available_permits()), (1 << 10, 7 << 10));
        let same = allowance(&unread, 2);
        assert_eq!(same.reserve(three).await.unwrap_err().code(), "overloaded", "its quarter is smaller now");
        assert!(!allowance(&unread, 1).reserve(three).await.unwrap());
        assert_eq!(unread.bytes.available_permits(), 7 << 10, "dropped, and so given back");
        drop((held, large));
        assert_eq!(unread.bytes.available_permits(), 16 << 10);
        assert!(!same.reserve(usize::MAX / 2).await.unwrap(), "no answer can have more than a quarter");
    }

    #[tokio::test]
    async fn what_was_not_foreseen_is_counted_while_there_is_something_left_and_never_refused() {
        let unread = web::Data::new(Unread::new(16 << 20));
        let allowance = allowance(&unread, 1);
        assert!(allowance.settle(BodySize::Sized(1 << 20)).is_none(), "nobody's, and so everybody's");
        allowance.take_turn(DeviceNo(1)).await.unwrap();
        let held = allowance.settle(BodySize::Sized(1 << 20)).unwrap();
        assert_eq!(held.units(), 1 << 10);
        let all = unread.bytes.clone().acquire_many_owned(15 << 10).await.unwrap();
        allowance.take_turn(DeviceNo(1)).await.unwrap();
        assert_eq!(allowance.settle(BodySize::Sized(1 << 20)).unwrap().units(), 0);
        drop(all);
    }

    #[tokio::test]
    async fn a_third_answer_waits_for_a_turn_of_its_device() {
        let unread = web::Data::new(Unread::new(16 << 20));
        let turn = async |device| {
            let allowance = allowance(&unread, 1);
            allowance.take_turn(DeviceNo(device)).await.map(|()| allowance)
        };
        let (first, _second) = (turn(1).await.unwrap(), turn(1).await.unwrap());
        assert_eq!(turn(1).await.err().unwrap().code(), "overloaded");
        assert!(turn(2).await.is_ok());
        let (third, ()) = tokio::join!(turn(1), async {
            tokio::time::sleep(WAIT / 50).await;
            drop(first);
        });
        assert!(third.is_ok(), "it waited");
    }
}
