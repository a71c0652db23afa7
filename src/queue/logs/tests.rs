use std::collections::BTreeSet;

use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::{
    domain::{DeviceId, EntryKind, Epoch, LogEntry, MessageId, Timestamp, UserId, Window},
    hot::{
        Doorbell as _, GroupEvent, Reading, Seat, Sessions, Switchboard, Watch,
        local::{LocalHot, LocalHub},
    },
};

const DEVICE: DeviceNo = DeviceNo(7);

fn at(index: usize) -> Position {
    Position(i64::try_from(index).unwrap())
}

/// A log as the store has it, and the windows of one device.
#[derive(Debug, Clone)]
struct Model {
    group: GroupId,
    /// Which positions are left, from 1 on.
    left: Vec<bool>,
    /// Oldest first.
    windows: Vec<Window>,
}

impl Model {
    fn head(&self) -> Position {
        at(self.left.len())
    }

    fn entry(&self, index: usize) -> LogEntry {
        let ended = self.windows.iter().any(|window| window.closed_at == Some(at(index)));
        LogEntry {
            group_id: self.group,
            position: at(index),
            kind: EntryKind::Application,
            message_id: MessageId::new(Uuid::from_u128(index as u128)),
            sender_id: UserId::new(Uuid::nil()),
            sender_device_id: DeviceId::parse("phone").unwrap(),
            message_type: None,
            epoch: Epoch(0),
            body: Some(Bytes::from_static(b"sealed")),
            accepted_at: Timestamp::from_millis(0),
            expires_at: None,
            closes: if ended { [DeviceNo(1), DEVICE, DeviceNo(9)].into() } else { Arc::default() },
        }
    }

    fn read(&self, after: Position, limit: usize) -> (Vec<LogEntry>, bool) {
        let after = usize::try_from(after.0).unwrap();
        let mut left = (after + 1..=self.left.len()).filter(|index| self.left[index - 1]);
        let page: Vec<_> = left.by_ref().take(limit).map(|index| self.entry(index)).collect();
        let more = page.len() == limit && left.next().is_some();
        (page, more)
    }

    /// What the device must be given: each position of its windows, and whether it is left.
    fn owed(&self) -> Vec<(usize, bool)> {
        let within = |index: usize| {
            self.windows.iter().any(|window| {
                window.opened_after.max(window.cursor) < at(index)
                    && window.closed_at.is_none_or(|end| at(index) <= end)
            })
        };
        (1..=self.left.len())
            .filter(|index| within(*index))
            .map(|index| (index, self.left[index - 1]))
            .collect()
    }
}

/// The room of a model's group, and a seat in it.
struct Stage {
    sessions: Arc<Sessions>,
    switchboard: Arc<Switchboard>,
    seat: Seat,
    group: GroupId,
}

impl Stage {
    async fn of(group: GroupId) -> Self {
        let sessions = Arc::new(Sessions::default());
        let engine = LocalHot::join(&LocalHub::new(), sessions.clone());
        let switchboard = Switchboard::new(sessions.clone(), Arc::new(engine));
        let seat = switchboard.open(DEVICE, Uuid::new_v4()).await;
        Self { sessions, switchboard, seat, group }
    }

    async fn watch(&self) -> Watch {
        self.switchboard.watch(self.seat.line(), self.group).await
    }

    fn learn(&self, log: &Log, model: &Model, limit: usize) -> Stretch {
        let room = log.watch.room();
        let (entries, more) = model.read(log.seen(), limit);
        let reading = Reading { after: log.seen(), entries, more, head: model.head(), heard: room.heard() };
        self.switchboard.learn(room, reading)
    }

    /// Gives all there is; what was given of which positions, and up to where the mailbox had been given then.
    async fn play(
        &self,
        model: &Model,
        first: Vec<Window>,
        limit: usize,
        most: usize,
    ) -> Vec<(usize, bool, Position)> {
        let mut log = Log::new(self.watch().await, first);
        let (mut mailbox, mut page, mut given) = (Position(0), None, Vec::new());
        for _ in 0..1_000 {
            match log.step(DEVICE, mailbox, most, page.as_ref()) {
                Step::Give(Give::Entry(told)) => {
                    given.push((usize::try_from(told.entry().position.0).unwrap(), true, mailbox));
                }
                Step::Give(Give::Gap(from, to)) => {
                    given
                        .extend((from.0..=to.0).map(|gone| (usize::try_from(gone).unwrap(), false, mailbox)));
                }
                Step::Read => page = Some(self.learn(&log, model, limit)),
                Step::ReadWindows => log.set_windows(model.windows.clone()),
                Step::Gated(gate) => mailbox = gate,
                Step::Full => log.ack(log.seen()),
                Step::Idle | Step::Over => return given,
            }
        }
        panic!("no end");
    }
}

fn window(group: GroupId, opened_after: usize, closed_at: Option<usize>, gate: i64) -> Window {
    Window {
        group_id: group,
        opened_after: at(opened_after),
        closed_at: closed_at.map(at),
        cursor: at(opened_after),
        gate: Position(gate),
        joined_epoch: Epoch(0),
    }
}

fn models() -> impl Strategy<Value = Model> {
    let left = prop::collection::vec(prop::bool::weighted(0.8), 1..40);
    (left, prop::collection::btree_set(0..40_usize, 1..5), 0..4_usize).prop_map(|(left, bounds, acked)| {
        let group = GroupId::new(Uuid::new_v4());
        let bounds: BTreeSet<_> = bounds.into_iter().map(|bound| bound % (left.len() + 1)).collect();
        let bounds: Vec<_> = bounds.into_iter().collect();
        let mut windows: Vec<_> = (1..)
            .zip(bounds.chunks(2))
            .map(|(gate, bounds)| window(group, bounds[0], bounds.get(1).copied(), gate * 3))
            .collect();
        let first = &mut windows[0];
        let end = first.closed_at.unwrap_or(at(left.len()));
        first.cursor = end.min(Position(first.cursor.0 + i64::try_from(acked).unwrap()));
        Model { group, left, windows }
    })
}

proptest! {
    /// Whatever is gone, heard live, read in pages of any size, and however late an end is learned of.
    #[test]
    fn a_device_is_given_its_windows_whole_in_order_after_their_gates_and_nothing_else(
        model in models(),
        limit in 1..6_usize,
        most in 1..6_usize,
        live in prop::collection::vec(0..40_usize, 0..10),
        is_late in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let given = runtime.block_on(async {
            let stage = Stage::of(model.group).await;
            let _other = stage.watch().await;
            for index in live.into_iter().filter(|index| *index < model.left.len() && model.left[*index]) {
                let told = GroupEvent::Entry(Arc::new(model.entry(index + 1)));
                stage.sessions.ring_group(model.group, told);
            }
            let mut first = model.windows.clone();
            // What was acked was in the log, and with it the end of its window.
            let known = |last: &&mut Window| last.closed_at.is_none_or(|end| last.cursor < end);
            if is_late && let Some(last) = first.last_mut().filter(known) {
                last.closed_at = None;
            }
            stage.play(&model, first, limit, most).await
        });
        let told: Vec<_> = given.iter().map(|(index, left, _)| (*index, *left)).collect();
        prop_assert_eq!(told, model.owed());
        for (index, _, mailbox) in given {
            let own = model.windows.iter().rev().find(|window| window.opened_after < at(index)).unwrap();
            prop_assert!(own.gate <= mailbox || own.cursor > own.opened_after);
        }
    }
}
