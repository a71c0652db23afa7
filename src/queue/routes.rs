//! The HTTP edge of the mailbox: the queue routes and the socket's opening.

use std::{collections::HashMap, sync::Arc};

use actix_http::ws;
use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::{BodyStream, BoxBody},
    delete, get,
    http::header,
    post, web,
};
use serde::{Deserialize, Serialize};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use utoipa::{IntoParams, ToSchema};

use super::{
    Queue,
    acks::LastAcks,
    frames::{Format, acked_entries, acked_ids},
    inbox::Inbox,
    most_of,
    outbox::{Writing, outbox},
    pages::GroupPage,
    session::{Place, Session, Sockets, count_from_zero, start},
};
use crate::{
    abuse::{Doors, Full},
    auth::{Authority, Identity},
    config::Config,
    domain::{Caller, Item, Position},
    groups::Groups,
    http::{Allowance, Body, CallerAddress, Problem, Query, RequestBody, check_origin, pay_to_open},
    messages::Messages,
    metrics::{self, Way},
    net::Giving,
    wire::{Id, ListedDeviceView, LogEntryView, MessageView, WelcomeView},
};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
struct QueueQuery {
    /// 1–100, default 50.
    limit: Option<u32>,
    /// `next_after` of the page before.
    after: Option<i64>,
}

/// That something happened to a message.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Notice {
    /// Its sender deleted it for everyone.
    Deleted { message_id: Id, deletes: Id },
    /// The list of the user's own devices changed.
    DevicesChanged {
        message_id: Id,
        /// The active devices after the change, oldest first.
        devices: Vec<ListedDeviceView>,
    },
    /// The log of this group may be read from now on.
    Joined { message_id: Id, group_id: Id },
}

/// What waits in the log of a group.
#[derive(Debug, Serialize, ToSchema)]
struct GroupEntries {
    group_id: Id,
    /// Those that follow the stored cursor, in order. A position that is left out is gone for good.
    entries: Vec<LogEntryView>,
    /// Whether more follows. It comes when these have been acked.
    more: bool,
}

impl From<GroupPage> for GroupEntries {
    fn from(page: GroupPage) -> Self {
        let entries = page.entries.iter().map(LogEntryView::from).collect();
        Self { group_id: Id(page.group_id.uuid()), entries, more: page.more }
    }
}

#[derive(Debug, Serialize, ToSchema)]
struct QueueAnswer {
    messages: Vec<MessageView>,
    welcomes: Vec<WelcomeView>,
    notices: Vec<Notice>,
    groups: Vec<GroupEntries>,
    /// How many mailbox items these are.
    count: usize,
    /// Whether more mailbox items are left after `next_after`.
    more: bool,
    next_after: i64,
}

impl QueueAnswer {
    fn of(items: &[(Position, Arc<Item>)], groups: Vec<GroupPage>, more: bool, next_after: Position) -> Self {
        let (mut messages, mut welcomes, mut notices) = (Vec::new(), Vec::new(), Vec::new());
        for (_, item) in items {
            match item.as_ref() {
                Item::Message(message) => messages.push(MessageView::from(message)),
                Item::Deleted { message_id, deletes, .. } => notices
                    .push(Notice::Deleted { message_id: Id(message_id.uuid()), deletes: Id(deletes.uuid()) }),
                Item::DevicesChanged { message_id, devices, .. } => notices.push(Notice::DevicesChanged {
                    message_id: Id(message_id.uuid()),
                    devices: devices.iter().map(ListedDeviceView::from).collect(),
                }),
                Item::Welcome { message_id, group_id, epoch, welcome, .. } => {
                    welcomes.push(WelcomeView::new(*message_id, *group_id, *epoch, welcome));
                }
                Item::Joined { message_id, group_id, .. } => notices.push(Notice::Joined {
                    message_id: Id(message_id.uuid()),
                    group_id: Id(group_id.uuid()),
                }),
            }
        }
        metrics::items_delivered(Way::Request, items.len());
        metrics::entries_delivered(Way::Request, groups.iter().map(|page| page.entries.len()).sum());
        let (groups, count) = (groups.into_iter().map(Into::into).collect(), items.len());
        Self { messages, welcomes, notices, groups, count, more, next_after: next_after.0 }
    }
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(transparent)]
struct MessageIds(Vec<Id>);

impl RequestBody for MessageIds {
    const ARRAY: bool = true;
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct AckBody {
    #[serde(default)]
    message_ids: Vec<Id>,
    /// Of each group the last position that is acked, with all before it.
    #[serde(default)]
    #[schema(value_type = HashMap<String, i64>)]
    groups: HashMap<Id, i64>,
}

impl RequestBody for AckBody {}

#[derive(Debug, Serialize, ToSchema)]
struct AckAnswer {
    success: bool,
    /// How many mailbox items were there.
    removed: u32,
}

/// What waits for the calling device, in mailbox order, and in the logs of its groups. Reading does not remove.
#[utoipa::path(tag = "messages", params(("user_id" = String, Path), ("device_id" = String, Path), QueueQuery),
    security(("bearer" = [])), responses((status = 200, body = QueueAnswer)))]
#[get("/queue/{user_id}/{device_id}")]
async fn read_queue(
    identity: Identity,
    path: web::Path<(String, String)>,
    query: Query<QueueQuery>,
    allowance: Allowance,
    config: web::Data<Config>,
    queue: web::Data<Queue>,
) -> Result<impl Responder, Problem> {
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    let limit = query.0.limit.unwrap_or(50);
    if !(1..=100).contains(&limit) {
        return Err(Problem::bad_field("limit", "a number from 1 to 100 is expected"));
    }
    let after = Position(query.0.after.unwrap_or(0).max(0));
    let mut left = queue.left(caller.device_no, after, limit).await?;
    if allowance.reserve(most_of(left.items.len(), config.limits.envelope)).await? {
        left = queue.left(caller.device_no, after, limit).await?;
    }
    let (items, cut_at) = queue.some_items(caller.device_no, &left).await?;
    let more = cut_at.is_some() || left.items.len() == limit as usize;
    let last_left = left.items.last().filter(|_| more).map(|(position, _)| *position);
    let last = cut_at.or(last_left).unwrap_or(left.head.max(after));
    let groups = queue.group_pages(caller.device_no, last).await?;
    Ok(web::Json(QueueAnswer::of(&items, groups, more, last)))
}

/// Erases items by their ids.
#[utoipa::path(tag = "messages", request_body = MessageIds,
    params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = AckAnswer)))]
#[delete("/queue/{user_id}/{device_id}")]
async fn delete_from_queue(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<MessageIds>,
    queue: web::Data<Queue>,
) -> Result<impl Responder, Problem> {
    acknowledge(identity, &path, AckBody { message_ids: body.0.0, groups: HashMap::new() }, queue).await
}

/// Erases items by their ids, and moves the cursors of groups.
#[utoipa::path(tag = "messages", request_body = AckBody,
    params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses((status = 200, body = AckAnswer)))]
#[post("/queue/{user_id}/{device_id}/ack")]
async fn ack_queue(
    identity: Identity,
    path: web::Path<(String, String)>,
    body: Body<AckBody>,
    queue: web::Data<Queue>,
) -> Result<impl Responder, Problem> {
    acknowledge(identity, &path, body.0, queue).await
}

async fn acknowledge(
    identity: Identity,
    path: &(String, String),
    body: AckBody,
    queue: web::Data<Queue>,
) -> Result<web::Json<AckAnswer>, Problem> {
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    let (ids, entries) = (acked_ids(body.message_ids)?, acked_entries(body.groups)?);
    let queue = queue.into_inner();
    if !entries.is_empty() {
        queue.store.ack_entries(caller.device_no, &entries).await?;
    }
    let removed = queue.ack_ids(caller.device_no, &ids).await?;
    Ok(web::Json(AckAnswer { success: true, removed }))
}

/// Adds the queue routes to the scope of messages.
pub fn queue_routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services.service(read_queue).service(delete_from_queue).service(ack_queue);
}

/// Where sockets come from: what every session shares, and what keeps the relay from stopping before they ended.
pub struct SocketFloor {
    sockets: Arc<Sockets>,
    running: TaskTracker,
}

impl SocketFloor {
    /// A floor for the sockets of this process; `stop` ends them all.
    #[must_use]
    pub fn new(
        queue: Arc<Queue>,
        messages: Arc<Messages>,
        groups: Arc<Groups>,
        authority: Arc<Authority>,
        doors: Doors,
        config: &Config,
        stop: CancellationToken,
    ) -> Self {
        count_from_zero();
        let (times, in_flight) = (config.socket, config.limits.in_flight);
        let last_acks = LastAcks::within(config.shutdown_timeout);
        let sockets =
            Sockets { queue, messages, groups, authority, doors, times, in_flight, last_acks, stop };
        Self { sockets: Arc::new(sockets), running: TaskTracker::new() }
    }

    /// Waits until every session has ended.
    pub async fn emptied(&self) {
        self.running.close();
        self.running.wait().await;
    }
}

/// Opens the socket of a device.
#[utoipa::path(tag = "socket", params(("user_id" = String, Path), ("device_id" = String, Path)),
    security(("bearer" = [])), responses(
    (status = 101, description = "the frames are described in proto-docs/websocket.md"),
    (status = 401, description = "no or bad token"), (status = 403, description = "`not-you`, `origin-not-allowed`"),
    (status = 429, description = "`rate-limited`, `too-many-connections`, `blocked`")))]
#[get("/ws/{user_id}/{device_id}")]
async fn open_socket(
    request: HttpRequest,
    path: web::Path<(String, String)>,
    payload: web::Payload,
    floor: web::Data<SocketFloor>,
    authority: web::Data<Authority>,
    config: web::Data<Config>,
) -> Result<HttpResponse, Problem> {
    check_origin(&request, &config)?;
    let offer = Offer::read(&request);
    let authority = authority.into_inner();
    let (identity, ticket) = match &offer.ticket {
        Some(ticket) if !authority.is_open() => {
            let (identity, single_use) = authority.read_ticket(ticket)?;
            (identity, Some(single_use))
        }
        _ => (authority.identify(request.headers(), offer.token.as_deref())?, None),
    };
    let caller = identity.act_as(&path.0, Some(&path.1)).await?;
    pay_to_open(&floor.sockets.doors.paces, caller.device_no).await?;
    if floor.sockets.stop.is_cancelled() {
        return Err(Problem::unavailable("draining", "the relay is stopping"));
    }
    let bad = |_| Problem::new(400, "bad-handshake", "this is not the opening of a WebSocket (RFC 6455)");
    let mut response = ws::handshake(request.head()).map_err(bad)?;
    if offer.named {
        response.insert_header((header::SEC_WEBSOCKET_PROTOCOL, offer.format.protocol()));
    }
    let place = place(&floor, &request, &caller).await?;
    // Last, so that a refused opening leaves the ticket as it was.
    if let Some(ticket) = ticket {
        authority.use_ticket(ticket).await?;
    }
    let (outbox, writing) = outbox();
    let inbox = Inbox::new(payload, config.limits.message_body);
    let login = identity.claims().map(|claims| (claims.session, claims.expires_at));
    let sockets = Arc::clone(&floor.sockets);
    let session = Session::new(sockets, caller, login, place, offer.format, (inbox, outbox));
    start(session, floor.running.token());
    let response =
        response.message_body(written(writing)).map_err(|_| Problem::new(500, "internal", "no answer"))?;
    Ok(response.into())
}

/// Makes room for a socket of the caller.
async fn place(floor: &SocketFloor, request: &HttpRequest, caller: &Caller) -> Result<Place, Problem> {
    let network = CallerAddress::of(request).map(|address| address.network());
    let connection = floor.sockets.doors.connections.open(network, caller).await;
    let connection = connection.map_err(|full| {
        let detail = match full {
            Full::Network => "too many sockets are open from this network",
            Full::User => "too many sockets of this user are open",
        };
        Problem::too_many("too-many-connections", detail, 10)
    })?;
    Ok(Place { network, giving: Giving::to(request), connection })
}

fn written(writing: Writing) -> BoxBody {
    BoxBody::new(BodyStream::new(writing))
}

/// What a client offers in `Sec-WebSocket-Protocol`.
struct Offer {
    format: Format,
    /// Whether it named one of ours, so that the answer must select it.
    named: bool,
    token: Option<String>,
    ticket: Option<String>,
}

impl Offer {
    fn read(request: &HttpRequest) -> Self {
        let mut offer = Self { format: Format::Json, named: false, token: None, ticket: None };
        let lists =
            request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).filter_map(|list| list.to_str().ok());
        for word in lists.flat_map(|list| list.split(',')).map(str::trim) {
            let format =
                [Format::Json, Format::MessagePack].into_iter().find(|format| format.protocol() == word);
            if let Some(format) = format.filter(|_| !offer.named) {
                offer.format = format;
                offer.named = true;
            }
            if let Some(token) = word.strip_prefix("bearer.") {
                offer.token = Some(token.to_owned());
            }
            if let Some(ticket) = word.strip_prefix("ticket.") {
                offer.ticket = Some(ticket.to_owned());
            }
        }
        offer
    }
}

/// Adds the socket route.
pub fn routes(services: &mut utoipa_actix_web::service_config::ServiceConfig<'_>) {
    services.service(open_socket);
}
