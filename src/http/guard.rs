//! The guard before every request: who is shut out is told so before anything else, and every request counts against its
//! network, and against its device as soon as that is known.

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    body::{BoxBody, EitherBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{Method, StatusCode},
    middleware::Next,
    web,
};

use super::{CallerAddress, Problem, policy::Policy};
use crate::{
    abuse::{Blocks, Paces, Payer, Verb},
    domain::{DeviceNo, Drawn, Network},
    metrics,
    wire::whole_seconds,
};

/// Lets a request through, unless its network is shut out or has asked too often; tells what is left, and counts refusals
/// that were earned.
pub async fn guard<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, actix_web::Error> {
    let Some(gate) = Gate::of(request.request()) else {
        return Ok(next.call(request).await?.map_into_left_body());
    };
    let (mut response, of_device) = match gate.pass(request.request()).await {
        Ok(policy) => (next.call(request).await?.map_into_left_body(), policy),
        Err(problem) => {
            (request.into_response(HttpResponse::from_error(problem)).map_into_right_body(), None)
        }
    };
    let problem = response.response().extensions().get::<Problem>().cloned();
    if gate.is_earned(response.status(), problem.as_ref()) {
        gate.blocks.strike(gate.network).await;
    }
    if let Some(policy) = problem.and_then(|problem| problem.policy()).or(of_device) {
        policy.write(response.headers_mut());
    }
    Ok(response)
}

/// Tells whose token a request has.
pub struct Recognise(pub fn(&HttpRequest) -> Option<DeviceNo>);

/// What the guard looks at.
struct Gate {
    paces: web::Data<Paces>,
    blocks: Arc<Blocks>,
    verb: Verb,
    network: Network,
}

impl Gate {
    /// None for what is always answered.
    fn of(request: &HttpRequest) -> Option<Self> {
        let paces = request.app_data::<web::Data<Paces>>()?.clone();
        let blocks = request.app_data::<web::Data<Blocks>>()?.clone().into_inner();
        let (verb, address) = (verb(request)?, CallerAddress::of(request)?);
        Some(Self { paces, blocks, verb, network: address.network() })
    }

    /// What is left to the device, if one asks and its budget is this request's.
    async fn pass(&self, request: &HttpRequest) -> Result<Option<Policy>, Problem> {
        if self.verb != Verb::Probe
            && let Some(left) = self.blocks.left(self.network)
        {
            metrics::limit_tripped("blocks", "network", 1);
            let detail = "this network was refused too often and is shut out for a while";
            return Err(Problem::too_many("blocked", detail, whole_seconds(left).max(1)));
        }
        pay(&self.paces, self.verb, Payer::Network(self.network)).await?;
        // Who opens a socket may say who it is in other ways, and pays there.
        let recognise = request.app_data::<web::Data<Recognise>>().filter(|_| self.verb != Verb::Open);
        match recognise.and_then(|recognise| (recognise.0)(request)) {
            Some(device) => pay(&self.paces, self.verb, Payer::Device(device)).await,
            None => Ok(None),
        }
    }

    /// Whether the answer is a refusal that somebody would not get who keeps to the rules. A web page can make its visitors
    /// ask without a token, and who lost a node opens sockets before the places of the old ones are free.
    fn is_earned(&self, status: StatusCode, problem: Option<&Problem>) -> bool {
        let code = problem.map_or("", Problem::code);
        let refused = status == StatusCode::UNAUTHORIZED && code != "no-token";
        self.verb != Verb::Probe && (refused || code == "rate-limited")
    }
}

fn verb(request: &HttpRequest) -> Option<Verb> {
    let looks = *request.method() == Method::GET;
    // As the router sees it: decoded, so that no spelling of a path leads around its budget.
    Verb::of(looks, request.match_info().as_str(), request.headers().contains_key("x-join-token"))
}

/// Counts an act, and tells what is left, where there is a limit.
async fn pay(paces: &Paces, verb: Verb, payer: Payer) -> Result<Option<Policy>, Problem> {
    let purse = paces.purse(verb, payer);
    if purse.is_unlimited() {
        return Ok(None);
    }
    let spent = paces.spend(&purse).await;
    let policy = Policy::new(verb.name(), payer.word(), purse.quota).with(spent);
    let Drawn::Empty(wait) = spent.drawn else { return Ok(Some(policy)) };
    let detail = match payer {
        Payer::Device(_) => "this device does this too often; repeat the request later",
        Payer::Network(_) => "too many requests from this network; repeat the request later",
    };
    Err(Problem::rate_limited(wait, detail).under(policy))
}

/// Counts the opening of a socket against its device's budget.
///
/// # Errors
/// 429 `rate-limited` past it.
pub async fn pay_to_open(paces: &Paces, device: DeviceNo) -> Result<(), Problem> {
    pay(paces, Verb::Open, Payer::Device(device)).await.map(drop)
}
