use bytes::Bytes;
use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::{DeviceId, EntryKind, Epoch, GroupId, MessageId, Timestamp, UserId};

fn told(position: i64, weight: &Weight) -> Arc<Told> {
    let entry = LogEntry {
        group_id: GroupId::new(Uuid::nil()),
        position: Position(position),
        kind: EntryKind::Application,
        message_id: MessageId::new(Uuid::from_u128(position.unsigned_abs().into())),
        sender_id: UserId::new(Uuid::nil()),
        sender_device_id: DeviceId::parse("phone").unwrap(),
        message_type: None,
        epoch: Epoch(0),
        body: Some(Bytes::from_static(b"sealed")),
        accepted_at: Timestamp::from_millis(0),
        expires_at: None,
        closes: Arc::default(),
    };
    Told::new(Arc::new(entry), weight)
}

#[test]
fn a_frame_is_written_once_in_each_form_and_weighs_until_nobody_holds_it() {
    let weight = Weight::default();
    let entry = told(1, &weight);
    let bare = weight.bytes();
    let write = || Some(Bytes::from_static(b"frame"));
    let never = || panic!("written twice");
    assert_eq!(entry.frame(Form::Text, write), write());
    assert_eq!(entry.frame(Form::Text, never), write());
    assert_eq!(entry.frame(Form::Binary, || None), None);
    assert_eq!(entry.frame(Form::Binary, write), write());
    assert_eq!(weight.bytes(), bare + 10);
    let other = Arc::clone(&entry);
    drop(entry);
    assert_eq!(weight.bytes(), bare + 10);
    drop(other);
    assert_eq!(weight.bytes(), 0);
}

/// Positions of a log of which some are gone for good, with entries told live, read as pages, and forgotten.
fn logs() -> impl Strategy<Value = (Vec<bool>, Vec<(u8, usize, usize)>)> {
    let left = prop::collection::vec(prop::bool::weighted(0.7), 1..40);
    (left, prop::collection::vec((0..4_u8, 0..40_usize, 1..6_usize), 0..40))
}

fn position(index: usize) -> Position {
    Position(i64::try_from(index).unwrap())
}

proptest! {
    /// Whatever was told, read and forgotten: what a stretch says of a place is what the log says.
    #[test]
    fn a_stretch_knows_nothing_that_is_not_so((left, acts) in logs()) {
        let weight = Weight::default();
        let mut stretch = Stretch::default();
        let at = |index: usize| left[index - 1];
        for (act, place, count) in acts {
            let place = place % left.len();
            match act {
                0 if at(place + 1) => {
                    stretch.add(position(place), told(position(place + 1).0, &weight));
                }
                1 => {
                    let mut after = place;
                    let page: Vec<_> = (place + 1..=left.len()).filter(|at_index| at(*at_index)).take(count).collect();
                    for index in &page {
                        stretch.add(position(after), told(position(*index).0, &weight));
                        after = *index;
                    }
                    if page.len() < count {
                        stretch.lay_bare(position(after), position(left.len()));
                    }
                }
                2 => stretch.forget(position(place + 1)),
                _ => {}
            }
            for seen in 0..=left.len() {
                let truth = (seen + 1..=left.len()).find(|index| at(*index));
                match (stretch.next(position(seen)), truth) {
                    (Next::Entry(told), Some(index)) => prop_assert_eq!(told.entry().position, position(index)),
                    (Next::Bare(to), None) => prop_assert_eq!(to, position(left.len())),
                    (Next::Unknown, _) => {}
                    (next, truth) => prop_assert!(false, "{:?} where {:?} is true", next, truth),
                }
            }
        }
    }
}
