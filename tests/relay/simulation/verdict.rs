//! Whether a history ended as the invariants say, once everything was settled and drained.

use std::{
    collections::{BTreeMap, HashMap},
    path::Path,
};

use sqlx::{Connection, PgConnection, SqliteConnection, sqlite::SqliteConnectOptions};
use uuid::Uuid;

use super::{
    ledger::{Book, Ledger, Sent, addressed},
    script::CAST,
    world::World,
};

/// Everything that was broken; nothing, in a good relay.
pub(super) async fn violations(world: &World, ledger: &Ledger) -> Vec<String> {
    let mut found = std::mem::take(&mut ledger.book().violations);
    {
        let book = ledger.book();
        found.extend(undelivered(&book));
        found.extend(out_of_turn(&book));
        found.extend(first_seen_out_of_order(&book));
    }
    for (device, (user, name)) in CAST.into_iter().enumerate() {
        let user = ledger.users[user];
        let places = match world.backend.database() {
            Some(database) => places_on_postgres(&database.url(), user, name).await,
            None => places_on_sqlite(world.backend.folder(), user, name).await,
        };
        found.extend(misplaced(&ledger.book(), device, &places));
    }
    found
}

/// Accepted messages that never came, though they did not end.
fn undelivered(book: &Book) -> Vec<String> {
    let mut found = Vec::new();
    for (id, sent) in &book.sent {
        if sent.receipt.is_none() || sent.may_be_gone {
            continue;
        }
        for device in addressed(sent.from, sent.to) {
            let heard = &book.heard[device];
            if !sent.deleting && !heard.firsts.contains(id) {
                found.push(format!("{id} of device {} never came to device {device}", sent.from));
            }
            if sent.deleted.is_some() && !heard.told_deleted.contains(id) {
                found.push(format!("device {device} was never told of the deletion of {id}"));
            }
        }
    }
    found
}

/// Sends of one device that were accepted in another order than they were made.
fn out_of_turn(book: &Book) -> Vec<String> {
    let mut found = Vec::new();
    for (id, earlier) in &book.sent {
        for (other, later) in &book.sent {
            let (Some(first), Some(second)) = (&earlier.receipt, &later.receipt) else { continue };
            if earlier.from == later.from
                && earlier.to == later.to
                && came_first(earlier, later)
                && first.sequence >= second.sequence
            {
                found.push(format!("{id} was sent before {other}, but {first:?} and {second:?}"));
            }
        }
    }
    found
}

fn came_first(earlier: &Sent, later: &Sent) -> bool {
    let settled_before = earlier.settled.is_some_and(|settled| settled < later.began);
    let before_in_burst = match (earlier.burst, later.burst) {
        (Some(one), Some(other)) => one.burst == other.burst && one.index < other.index,
        _ => false,
    };
    settled_before || (before_in_burst && earlier.at_first_try && later.at_first_try)
}

/// A message that came first after a later one of its conversation had come.
fn first_seen_out_of_order(book: &Book) -> Vec<String> {
    let mut found = Vec::new();
    for (device, heard) in book.heard.iter().enumerate() {
        let mut last: HashMap<(usize, usize), i64> = HashMap::new();
        for id in &heard.firsts {
            // One that has ended by one node's clock and not by another's may be skipped and still come.
            let Some(sent) = book.sent.get(id).filter(|sent| !sent.may_be_gone) else { continue };
            let Some(receipt) = &sent.receipt else { continue };
            let before = last.insert((CAST[sent.from].0, sent.to), receipt.sequence);
            if before.is_some_and(|before| before >= receipt.sequence) {
                found.push(format!(
                    "{id} first came to device {device} after a later one: {before:?}, {receipt:?}"
                ));
            }
        }
    }
    found
}

/// Where the store says that a device's items were put, and the head of its mailbox.
struct Places {
    head: i64,
    positions: Vec<(Uuid, i64)>,
}

async fn places_on_postgres(url: &str, user: Uuid, device: &str) -> Places {
    let mut store = PgConnection::connect(url).await.unwrap();
    let head = "SELECT m.head FROM mailboxes m JOIN devices d USING (device_no) WHERE d.user_id = $1 AND d.device_id = $2";
    let head: (i64,) = sqlx::query_as(head).bind(user).bind(device).fetch_one(&mut store).await.unwrap();
    let positions = "SELECT m.message_id, p.position FROM devices d \
        JOIN messages m ON m.device_nos @> ARRAY[d.device_no] \
        CROSS JOIN LATERAL unnest(m.device_nos, m.positions) AS p(device_no, position) \
        WHERE d.user_id = $1 AND d.device_id = $2 AND p.device_no = d.device_no ORDER BY p.position";
    let positions = sqlx::query_as(positions).bind(user).bind(device).fetch_all(&mut store).await.unwrap();
    store.close().await.unwrap();
    Places { head: head.0, positions }
}

async fn places_on_sqlite(folder: &Path, user: Uuid, device: &str) -> Places {
    let options = SqliteConnectOptions::new().filename(folder.join("restante.db")).read_only(true);
    let mut store = SqliteConnection::connect_with(&options).await.unwrap();
    let head = "SELECT m.head FROM mailboxes m JOIN devices d USING (device_no) WHERE d.user_id = ? AND d.device_id = ?";
    let head: (i64,) = sqlx::query_as(head).bind(user).bind(device).fetch_one(&mut store).await.unwrap();
    let positions = "SELECT m.message_id, p.value ->> 1 FROM devices d JOIN messages m \
        JOIN json_each(m.places) p ON p.value ->> 0 = d.device_no \
        WHERE d.user_id = ? AND d.device_id = ? ORDER BY p.value ->> 1";
    let positions = sqlx::query_as(positions).bind(user).bind(device).fetch_all(&mut store).await.unwrap();
    store.close().await.unwrap();
    Places { head: head.0, positions }
}

/// Gaps, doubles and inversions in a mailbox.
fn misplaced(book: &Book, device: usize, places: &Places) -> Vec<String> {
    let mut found = Vec::new();
    let place: BTreeMap<_, _> = places.positions.iter().copied().collect();
    let distinct = places.positions.windows(2).all(|pair| pair[0].1 < pair[1].1);
    let whole = places.head == i64::try_from(places.positions.len()).unwrap();
    if !distinct || !whole || place.len() != places.positions.len() {
        found.push(format!("the mailbox of device {device} has gaps: {} and {place:?}", places.head));
    }
    for (id, sent) in &book.sent {
        let expected =
            sent.receipt.is_some() && addressed(sent.from, sent.to).any(|addressed| addressed == device);
        if place.contains_key(id) != expected {
            found.push(format!("{id} is to be in the mailbox of device {device}: {expected}"));
        }
    }
    // Notices stand beside the messages of a page, so that their place among them is not seen.
    let lasting = |id: &&Uuid| book.sent.get(id).is_some_and(|sent| !sent.may_be_gone);
    let firsts = book.heard[device].firsts.iter().filter(lasting);
    let seen: Vec<_> = firsts.filter_map(|id| place.get(id)).collect();
    for (first, second) in seen.iter().zip(seen.iter().skip(1)).filter(|(first, second)| first >= second) {
        found.push(format!("device {device} saw position {first} first, then {second}"));
    }
    found
}
