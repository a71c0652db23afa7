use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::Notify;
use uuid::Uuid;

use super::*;
use crate::{
    domain::{DeviceId, EntryKind, Epoch, LogEntry, MessageId, Timestamp, UserId},
    hot::{
        Doorbell as _, GroupEvent, Seat, Sessions,
        local::{LocalHot, LocalHub},
    },
};

const GROUP: GroupId = GroupId::new(Uuid::from_u128(7));

fn entry(position: i64) -> LogEntry {
    LogEntry {
        group_id: GROUP,
        position: Position(position),
        kind: EntryKind::Application,
        message_id: MessageId::new(Uuid::nil()),
        sender_id: UserId::new(Uuid::nil()),
        sender_device_id: DeviceId::parse("phone").unwrap(),
        message_type: None,
        epoch: Epoch(0),
        body: Some(Bytes::from_static(b"sealed")),
        accepted_at: Timestamp::from_millis(0),
        expires_at: None,
        closes: Arc::default(),
    }
}

fn page(positions: std::ops::RangeInclusive<i64>) -> LogPage {
    let head = Position(*positions.end());
    LogPage { entries: positions.map(entry).collect(), more: false, head, oldest: Position(1) }
}

/// A relay's node with this many sessions that read the group, and how often the log was read.
struct Node {
    sessions: Arc<Sessions>,
    switchboard: Arc<Switchboard>,
    reads: AtomicUsize,
    readers: Vec<(Seat, Watch)>,
}

impl Node {
    async fn with(readers: i64) -> Self {
        let sessions = Arc::new(Sessions::default());
        let engine = LocalHot::join(&LocalHub::new(), sessions.clone());
        let switchboard = Switchboard::new(sessions.clone(), Arc::new(engine));
        let mut node = Self { sessions, switchboard, reads: AtomicUsize::new(0), readers: Vec::new() };
        for device in 1..=readers {
            let seat = node.switchboard.open(DeviceNo(device), Uuid::new_v4()).await;
            let watch = node.switchboard.watch(seat.line(), GROUP).await;
            node.readers.push((seat, watch));
        }
        node
    }

    fn room(&self) -> &Arc<Room> {
        self.readers[0].1.room()
    }

    async fn fill(
        &self,
        seen: i64,
        answer: Result<LogPage, StoreError>,
    ) -> Result<Option<Stretch>, StoreError> {
        let read = || async {
            self.reads.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            answer
        };
        fill(&self.switchboard, self.room(), Position(seen), read).await
    }

    fn reads(&self) -> usize {
        self.reads.swap(0, Ordering::SeqCst)
    }
}

fn next(room: &Room, seen: i64) -> Option<i64> {
    match room.next(Position(seen)) {
        Next::Entry(told) => Some(told.entry().position.0),
        Next::Bare(_) | Next::Unknown | Next::Nothing => None,
    }
}

#[tokio::test]
async fn many_sessions_that_wake_for_one_entry_read_the_log_once() {
    let node = Node::with(1_500).await;
    let read = join_all((0..1_500).map(|_| node.fill(0, Ok(page(1..=3))))).await;
    assert_eq!((node.reads(), read.into_iter().filter_map(Result::unwrap).count()), (1, 1));
    // A wake, as for a heavy entry or after a lost one.
    node.switchboard.wake_group(GROUP, Position(4));
    assert!(matches!(node.room().next(Position(3)), Next::Unknown));
    join_all((0..1_500).map(|_| node.fill(3, Ok(page(4..=4))))).await;
    assert_eq!((node.reads(), next(node.room(), 3)), (1, Some(4)));
    // An entry that was heard needs no read at all, and is the same for all.
    node.sessions.ring_group(GROUP, GroupEvent::Entry(Arc::new(entry(5))));
    assert_eq!(next(node.room(), 4), Some(5));
    assert!(matches!(node.room().next(Position(5)), Next::Nothing));
    assert_eq!(node.reads(), 0);
}

#[tokio::test]
async fn a_store_that_is_away_is_asked_by_one_of_many() {
    let node = Node::with(3).await;
    let away = || Err(StoreError::Unavailable("away".into()));
    let read = join_all((0..3).map(|_| node.fill(0, away()))).await;
    assert!(read.iter().all(Result::is_err));
    assert_eq!(node.reads(), 1);
}

#[tokio::test]
async fn after_lost_subscriptions_the_log_is_read_before_anybody_believes_to_have_all() {
    let node = Node::with(2).await;
    node.fill(0, Ok(page(1..=1))).await.unwrap();
    assert!(matches!(node.room().next(Position(1)), Next::Nothing));
    node.sessions.resubscribed();
    assert!(matches!(node.room().next(Position(1)), Next::Unknown));
    for (seat, _) in &node.readers {
        assert!(matches!(seat.line().next().await, crate::hot::Signal::Behind));
        assert!(
            matches!(seat.line().next().await, crate::hot::Signal::Logs(groups) if groups.contains(&GROUP))
        );
    }
    // What is doubted while it is read is to be read again.
    let (begun, doubted) = (Notify::new(), Notify::new());
    let reading = fill(&node.switchboard, node.room(), Position(1), || async {
        begun.notify_one();
        doubted.notified().await;
        Ok(page(2..=2))
    });
    let doubting = async {
        begun.notified().await;
        node.sessions.resubscribed();
        doubted.notify_one();
    };
    let (read, ()) = tokio::join!(reading, doubting);
    assert!(read.unwrap().is_some());
    assert_eq!(next(node.room(), 1), Some(2));
    assert!(matches!(node.room().next(Position(2)), Next::Unknown));
    node.fill(2, Ok(LogPage { entries: Vec::new(), ..page(2..=2) })).await.unwrap();
    assert!(matches!(node.room().next(Position(2)), Next::Nothing));
}

#[tokio::test]
async fn a_head_that_is_not_so_is_believed_until_the_log_was_read() {
    let node = Node::with(2).await;
    node.fill(0, Ok(page(1..=2))).await.unwrap();
    node.switchboard.wake_group(GROUP, Position(1 << 40));
    assert!(matches!(node.room().next(Position(2)), Next::Unknown));
    node.fill(2, Ok(LogPage { entries: Vec::new(), ..page(1..=2) })).await.unwrap();
    assert!(matches!(node.room().next(Position(2)), Next::Nothing));
    assert_eq!(node.room().head(), Position(2));
}

#[tokio::test]
async fn a_room_is_left_with_its_last_session_and_found_again_by_the_next() {
    let mut node = Node::with(2).await;
    node.fill(0, Ok(page(1..=1))).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let tidying = tokio::spawn(Arc::clone(&node.switchboard).tidy(stop.clone()));
    assert_eq!(node.switchboard.watched_groups(), [(GROUP, Position(1))]);
    let (seat, last) = node.readers.pop().unwrap();
    node.readers.clear();
    assert_eq!(node.switchboard.watched_groups().len(), 1, "somebody is left");
    drop(last);
    while !node.switchboard.watched_groups().is_empty() {
        tokio::task::yield_now().await;
    }
    let again = node.switchboard.watch(seat.line(), GROUP).await;
    assert!(matches!(again.room().next(Position(1)), Next::Unknown), "a new room knows nothing");
    stop.cancel();
    tidying.await.unwrap();
}
