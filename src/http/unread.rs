//! Answers that wait for their peers to take them: how many of a device, how many bytes of the process.
//!
//! A request that looks takes a turn of its device before anything is read for it, and a page the bytes that it may need.
//! Both are given back when the answer turns out small, was taken, or is given up. proto-docs/transport.md tells the bounds.

use std::{
    cell::RefCell,
    future::{Ready, ready},
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
use tokio::time::{Instant, timeout_at};

use super::{
    CallerAddress, Problem, Recognise,
    ledger::{Against, Claim, Ledger},
};
use crate::{
    abuse::Verb,
    domain::{DeviceNo, Network},
    metrics,
    shares::{Share, Shares},
};

/// Answers that a device may be given at the same time in one network; the next waits its turn. In another one it asks anew:
/// who has just changed networks has answers under way that nobody takes any more.
const TURNS: usize = 2;

/// How long a request waits for its turn and its bytes, in all.
const WAIT: Duration = Duration::from_secs(5);

/// The longest answer that is not counted.
const SMALL: u64 = 64 << 10;

/// In what bytes are counted.
const UNIT: usize = 1 << 10;

/// The limit's name in figures.
const LIMIT: &str = "answers";

/// Whose turn it is.
type Asker = (DeviceNo, Option<Network>);

/// What all answers together may hold.
pub struct Unread {
    bytes: Arc<Ledger>,
    turns: Arc<Shares<Asker>>,
}

impl Unread {
    /// Answers of so many bytes may wait in the process.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        for of in ["device", "network", "process"] {
            metrics::limit_tripped(LIMIT, of, 0);
        }
        Self { bytes: Ledger::of(bytes / UNIT), turns: Shares::of_each(TURNS) }
    }

    /// Units for so many bytes, as far as one answer can have them.
    fn units(&self, bytes: usize) -> usize {
        bytes.div_ceil(UNIT).min(self.bytes.most())
    }
}

/// What an answer holds until it was taken.
#[derive(Default)]
struct Held {
    turn: Option<Share<Asker>>,
    bytes: Option<Claim>,
}

/// What the answer to a request may hold; a route that reads much asks for it first.
#[derive(Clone)]
pub struct Allowance {
    unread: web::Data<Unread>,
    network: Option<Network>,
    /// Until when the request waits.
    deadline: Instant,
    /// Whether the answer is made for one device, and so is large once more for each that asks.
    is_own: bool,
    held: Rc<RefCell<Held>>,
}

impl Allowance {
    fn new(unread: web::Data<Unread>, network: Option<Network>, is_own: bool) -> Self {
        Self { unread, network, deadline: Instant::now() + WAIT, is_own, held: Rc::default() }
    }

    /// Waits until an answer with so many bytes in base64 may be read. To be asked once, before they are. Tells whether there
    /// was a wait, after which what was known before may be out of date.
    ///
    /// # Errors
    /// 503 `overloaded` when too much waits for other peers.
    pub async fn reserve(&self, bytes: usize) -> Result<bool, Problem> {
        let units = self.unread.units(bytes.div_ceil(3) * 4);
        let mut claimed = pin!(self.unread.bytes.claim(self.network, units));
        // Most do not wait.
        let at_once = (&mut claimed).now_or_never();
        let waits = at_once.is_none();
        let claimed = match at_once {
            Some(claimed) => Ok(claimed),
            None => timeout_at(self.deadline, claimed).await,
        };
        let claim = claimed.map_err(|_| overloaded(self.against(units)))?;
        self.held.borrow_mut().bytes = Some(claim);
        Ok(waits)
    }

    fn against(&self, units: usize) -> &'static str {
        match self.unread.bytes.try_claim(self.network, units) {
            Err(Against::Process) => "process",
            // Free again, a moment too late.
            Ok(_) | Err(Against::Network) => "network",
        }
    }

    async fn take_turn(&self, device: DeviceNo) -> Result<(), Problem> {
        let mut turn = self.unread.turns.share((device, self.network));
        timeout_at(self.deadline, turn.take(1)).await.map_err(|_| overloaded("device"))?;
        self.held.borrow_mut().turn = Some(turn);
        Ok(())
    }

    /// What an answer of this size goes on holding; none when it is small, or made for no device and reserved nothing: such
    /// answers are the same for everybody, and there once.
    fn settle(&self, size: BodySize) -> Option<Held> {
        let mut held = self.held.take();
        let length = match size {
            BodySize::Sized(length) if length > SMALL => usize::try_from(length).unwrap_or(usize::MAX),
            BodySize::None | BodySize::Sized(_) | BodySize::Stream => return None,
        };
        if !self.is_own && held.bytes.is_none() {
            return None;
        }
        // What was not foreseen is counted while there is something left. The answer is made, perhaps of keys that are never
        // handed out again: nobody is better off if it is thrown away.
        let claim = held.bytes.get_or_insert_with(|| self.unread.bytes.claim_left(self.network, 0));
        claim.settle(self.unread.units(length));
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

fn overloaded(of: &'static str) -> Problem {
    metrics::limit_tripped(LIMIT, of, 1);
    Problem::unavailable(
        "overloaded",
        "too many answers wait to be taken; nothing was done, repeat the request",
    )
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
    let verb = verb(request.request()).filter(|verb| matches!(verb, Verb::Read | Verb::Keys));
    let device = verb.and_then(|_| recognised(request.request()));
    let allowance = Allowance::new(unread, network, device.is_some());
    // Keys are small, and wanted while pages are being read.
    if let Some(device) = device.filter(|_| verb == Some(Verb::Read))
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

fn verb(request: &HttpRequest) -> Option<Verb> {
    let looks = *request.method() == Method::GET;
    Verb::of(looks, request.match_info().as_str(), false)
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
        Allowance::new(unread.clone(), Some(Network::of(IpAddr::from([192, 0, 2, last]))), true)
    }

    #[tokio::test]
    async fn the_process_has_so_many_bytes_and_a_network_a_quarter_of_what_is_left() {
        let unread = web::Data::new(Unread::new(16 << 20));
        let reserve = async |last, bytes| {
            let allowance = allowance(&unread, last);
            allowance.reserve(bytes).await.map(|waited| (waited, allowance))
        };
        // Four megabytes in base64, at once.
        let (waited, first) = reserve(1, 3 << 20).await.unwrap();
        assert!(!waited && unread.bytes.left() == 12 << 10);
        assert_eq!(reserve(1, UNIT).await.err().unwrap().code(), "overloaded");
        assert_eq!(
            reserve(2, 3 << 20).await.err().unwrap().code(),
            "overloaded",
            "more than a quarter of it"
        );
        let (_, second) = reserve(2, 3 << 18).await.unwrap();
        // An answer that turns out small holds nothing, and one of half a megabyte that.
        assert!(first.settle(BodySize::Sized(SMALL)).is_none());
        let large = second.settle(BodySize::Sized(1 << 19)).unwrap();
        assert_eq!(unread.bytes.left(), (16 << 10) - 512);
        drop(large);
        let (waited, _) = reserve(1, usize::MAX / 2).await.unwrap();
        assert!(!waited, "no answer can have more than a quarter");
    }

    #[tokio::test]
    async fn what_was_not_foreseen_is_counted_while_there_is_something_left_and_never_refused() {
        let unread = web::Data::new(Unread::new(16 << 20));
        let nobodys = Allowance::new(unread.clone(), None, false);
        assert!(nobodys.settle(BodySize::Sized(1 << 20)).is_none(), "and so everybody's");
        let own = allowance(&unread, 1);
        let held = own.settle(BodySize::Sized(3 << 20)).unwrap();
        assert_eq!(unread.bytes.left(), 13 << 10);
        let same = allowance(&unread, 1).reserve(1 << 20).await;
        assert_eq!(same.unwrap_err().code(), "overloaded", "it is its network's");
        let others: Vec<_> = (2..=8).map(|last| allowance(&unread, last)).collect();
        let others: Vec<_> = others.iter().filter_map(|own| own.settle(BodySize::Sized(2 << 20))).collect();
        assert_eq!((others.len(), unread.bytes.left()), (7, 0), "the last is given with what was left");
        drop((held, others));
        assert_eq!(unread.bytes.left(), 16 << 10);
    }

    #[tokio::test]
    async fn a_third_answer_waits_for_a_turn_of_its_device_in_its_network() {
        let unread = web::Data::new(Unread::new(16 << 20));
        let turn = async |last, device| {
            let allowance = allowance(&unread, last);
            allowance.take_turn(DeviceNo(device)).await.map(|()| allowance)
        };
        let (first, _second) = (turn(1, 1).await.unwrap(), turn(1, 1).await.unwrap());
        assert_eq!(turn(1, 1).await.err().unwrap().code(), "overloaded");
        assert!(turn(1, 2).await.is_ok());
        assert!(turn(2, 1).await.is_ok(), "it asks from elsewhere");
        let (third, ()) = tokio::join!(turn(1, 1), async {
            tokio::time::sleep(WAIT / 50).await;
            drop(first);
        });
        assert!(third.is_ok(), "it waited");
    }

    #[tokio::test]
    async fn turn_and_bytes_are_waited_for_no_longer_than_one_of_them() {
        let unread = web::Data::new(Unread::new(16 << 20));
        let _all = unread.bytes.claim_left(None, usize::MAX);
        let [first, second, third] = [(); 3].map(|()| allowance(&unread, 1));
        first.take_turn(DeviceNo(1)).await.unwrap();
        second.take_turn(DeviceNo(1)).await.unwrap();
        let began = Instant::now();
        let waited = async {
            third.take_turn(DeviceNo(1)).await?;
            third.reserve(UNIT).await
        };
        let (waited, ()) = tokio::join!(waited, async {
            tokio::time::sleep(WAIT * 9 / 10).await;
            drop(first.held.take());
        });
        assert_eq!(waited.unwrap_err().code(), "overloaded");
        assert!(began.elapsed() < WAIT * 17 / 10, "{:?}", began.elapsed());
    }
}
