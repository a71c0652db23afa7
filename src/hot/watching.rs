//! Joining and leaving the rooms of groups, and listening for them while somebody is there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream};
use uuid::Uuid;

use super::{
    Line, Switchboard,
    rooms::{Reading, Room, Subscription},
    stretch::Stretch,
};
use crate::domain::{GroupId, Position};

/// How long a subscription that failed is not tried again.
const RETRY: Duration = Duration::from_secs(2);

/// Subscriptions that are asked for at the same time.
const AT_ONCE: usize = 256;

/// A session's place in a group's room. Dropping it gives the place up.
pub struct Watch {
    switchboard: Arc<Switchboard>,
    room: Arc<Room>,
    session: Uuid,
}

impl Watch {
    /// The room.
    #[must_use]
    pub const fn room(&self) -> &Arc<Room> {
        &self.room
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.room.leave(self.session) {
            self.switchboard.note_left_room(self.room.group());
        }
    }
}

impl Switchboard {
    /// Has a session's line told when a group's log moves. When this returns, no entry that is committed from now on is
    /// missed, but what the reconciler makes up for. A session watches a group once.
    pub async fn watch(self: &Arc<Self>, line: &Arc<Line>, group: GroupId) -> Watch {
        let room = self.rooms().enter(group, line);
        let watch = Watch { switchboard: Arc::clone(self), room, session: line.session() };
        self.listen(&watch.room).await;
        watch
    }

    /// Takes in what was read of a group's log, and gives it back as a stretch of its own, which lasts whatever the room
    /// forgets.
    #[must_use]
    pub fn learn(&self, room: &Arc<Room>, reading: Reading) -> Stretch {
        self.rooms().learn(room, reading)
    }

    /// The groups that sessions of this process read, and the last position heard of in each log.
    #[must_use]
    pub fn watched_groups(&self) -> Vec<(GroupId, Position)> {
        self.rooms().heads()
    }

    /// Tells the sessions of this process that a group's log reaches up to here.
    pub fn wake_group(&self, group: GroupId, head: Position) {
        if let Some(room) = self.rooms().get(group) {
            room.hear_of(head);
        }
    }

    async fn listen(&self, room: &Room) {
        let mut subscription = room.subscription.lock().await;
        match *subscription {
            Subscription::Live => return,
            Subscription::Refused(at) if at.elapsed() < RETRY => return,
            Subscription::None | Subscription::Refused(_) => {}
        }
        *subscription = match self.engine().subscribe_group(room.group()).await {
            Ok(()) => Subscription::Live,
            Err(error) => {
                tracing::debug!(error = %error.0, "no subscription to a group; the reconciler delivers");
                Subscription::Refused(Instant::now())
            }
        };
        // What was committed before may not have been heard.
        room.doubt();
    }

    /// Tries subscriptions again that were refused.
    pub(super) async fn mend(&self) {
        let refused = self.rooms().all().into_iter().filter(|room| {
            let subscription = room.subscription.try_lock();
            subscription.is_ok_and(|subscription| matches!(*subscription, Subscription::Refused(_)))
        });
        stream::iter(refused).for_each_concurrent(AT_ONCE, async |room| self.listen(&room).await).await;
    }

    /// Ends the subscriptions to these groups, but where somebody has come back.
    pub(super) async fn leave_rooms(&self, groups: impl IntoIterator<Item = GroupId>) {
        let rooms = groups.into_iter().filter_map(|group| self.rooms().get(group));
        stream::iter(rooms).for_each_concurrent(AT_ONCE, async |room| self.unlisten(&room).await).await;
    }

    /// Who comes meanwhile waits for the subscription's lock, and then subscribes anew.
    async fn unlisten(&self, room: &Arc<Room>) {
        let mut subscription = room.subscription.lock().await;
        if room.is_watched() {
            return;
        }
        if let Err(error) = self.engine().unsubscribe_group(room.group()).await {
            tracing::debug!(error = %error.0, "a subscription to a group could not be ended");
        }
        *subscription = Subscription::None;
        room.doubt();
        self.rooms().close(room);
    }
}
