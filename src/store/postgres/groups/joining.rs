//! Devices that enter an MLS group: whether they may, and what is written for them.

use std::collections::{HashMap, HashSet};

use sqlx::{Error, PgConnection};

use super::{
    openings::{self, Opening, Room},
    roster_rows::{self, Leaf},
    rows::Admission,
};
use crate::{
    domain::{Caller, Delivery, DeviceNo, Role, Timestamp, UserId},
    store::{CannotAdd, Joiner, Limits},
};

/// Devices that may enter, with their locked mailboxes.
pub(super) struct Admitted<'a> {
    /// The calling device, where it enters itself.
    pub(super) own: Option<Room>,
    joiners: Vec<(&'a Joiner, Room)>,
}

/// Locks the mailboxes of the joiners, and of the calling device where it enters itself, and uses the joiners' packages up.
/// Refused in this order: a device that is gone, a package that may not be used, a mailbox that is full.
pub(super) async fn admit<'a>(
    tx: &mut PgConnection,
    limits: Limits,
    by: UserId,
    own: Option<DeviceNo>,
    joiners: &'a [Joiner],
) -> Result<Admission<Admitted<'a>>, Error> {
    let devices: Vec<DeviceNo> = joiners.iter().map(|joiner| joiner.device_no).chain(own).collect();
    let mut rooms = openings::lock_mailboxes(tx, &devices).await?;
    let there: HashSet<DeviceNo> = rooms.iter().map(|room| room.device_no).collect();
    if let Some(gone) = own.into_iter().chain(devices).find(|device| !there.contains(device)) {
        return Ok(Err(CannotAdd::DeviceGone(gone)));
    }
    let usable = use_packages(tx, joiners).await?;
    if let Some(used) = joiners.iter().find(|joiner| !usable.contains(joiner.reference.0.as_slice())) {
        return Ok(Err(CannotAdd::PackageUsed(used.reference)));
    }
    if !openings::have_room(tx, &mut rooms, by, limits).await? {
        return Ok(Err(CannotAdd::MailboxFull));
    }
    let rooms: HashMap<DeviceNo, Room> = rooms.into_iter().map(|room| (room.device_no, room)).collect();
    let with_room = |joiner: &'a Joiner| rooms.get(&joiner.device_no).map(|room| (joiner, *room));
    Ok(Ok(Admitted {
        own: own.and_then(|device| rooms.get(&device).copied()),
        joiners: joiners.iter().filter_map(with_room).collect(),
    }))
}

/// Marks packages as used, and returns those that may enter a group. Their owners' mailboxes are locked, under which
/// packages are dropped as well.
async fn use_packages(tx: &mut PgConnection, joiners: &[Joiner]) -> Result<HashSet<Vec<u8>>, Error> {
    if joiners.is_empty() {
        return Ok(HashSet::new());
    }
    let usable: Vec<Vec<u8>> = sqlx::query_scalar(USE_PACKAGES)
        .bind(joiners.iter().map(|joiner| joiner.reference.0.as_slice()).collect::<Vec<_>>())
        .bind(joiners.iter().map(|joiner| joiner.device_no.0).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
    Ok(usable.into_iter().collect())
}

pub(in super::super) const USE_PACKAGES: &str = "\
    WITH used AS ( \
        UPDATE key_packages p SET state = 2 FROM unnest($1::bytea[], $2::bigint[]) AS n(reference, device_no) \
        WHERE p.reference = n.reference AND p.device_no = n.device_no AND p.state = 1 AND NOT p.last_resort \
        RETURNING p.reference) \
    SELECT reference FROM used UNION ALL \
    SELECT p.reference FROM unnest($1::bytea[], $2::bigint[]) AS n(reference, device_no) \
    JOIN key_packages p ON p.reference = n.reference AND p.device_no = n.device_no \
    WHERE p.last_resort AND p.state IN (0, 1)";

impl Admitted<'_> {
    /// Writes the joiners into the group: users, leaves, Welcomes and windows.
    pub(super) async fn seat(
        &self,
        tx: &mut PgConnection,
        opening: Opening,
        now: Timestamp,
    ) -> Result<Vec<Delivery>, Error> {
        if self.joiners.is_empty() {
            return Ok(Vec::new());
        }
        let leaf = |(joiner, room): &(&crate::store::Joiner, Room)| Leaf {
            device_no: room.device_no,
            user_id: room.user_id,
            index: joiner.leaf_index,
        };
        let leaves: Vec<Leaf> = self.joiners.iter().map(leaf).collect();
        let users: Vec<UserId> = leaves.iter().map(|leaf| leaf.user_id).collect();
        roster_rows::add_users(tx, opening.group_id, &users, (Role::Member, false), now).await?;
        roster_rows::add_leaves(tx, opening.group_id, &leaves).await?;
        let rooms: Vec<_> =
            self.joiners.iter().map(|(joiner, room)| (*room, Some(&joiner.welcome))).collect();
        openings::open(tx, opening, &rooms, now).await
    }

    /// The users of the devices: the calling device's where it enters itself, then the joiners'.
    pub(super) fn users(&self) -> Vec<UserId> {
        let joiners = self.joiners.iter().map(|(_, room)| room.user_id);
        self.own.iter().map(|room| room.user_id).chain(joiners).collect()
    }

    /// Whether anybody joins by a Welcome.
    pub(super) fn any(&self) -> bool {
        !self.joiners.is_empty()
    }
}

/// Writes the calling device into the group, with a `joined` item.
pub(super) async fn seat_caller(
    tx: &mut PgConnection,
    opening: Opening,
    by: &Caller,
    (room, index, role): (Room, Option<u32>, Role),
    now: Timestamp,
) -> Result<Vec<Delivery>, Error> {
    let leaf = Leaf { device_no: by.device_no, user_id: by.user_id, index };
    roster_rows::add_users(tx, opening.group_id, &[by.user_id], (role, false), now).await?;
    roster_rows::add_leaves(tx, opening.group_id, &[leaf]).await?;
    openings::open(tx, opening, &[(room, None)], now).await
}
