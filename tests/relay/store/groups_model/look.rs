//! What both engines tell of everything, and what must hold of it.

use std::{collections::BTreeSet, sync::Arc};

use restante::{
    domain::{
        Caller, DeviceNo, EntryKind, Epoch, GroupId, Item, LogEntry, Member, MessageId, Position, Role,
        Window,
    },
    store::{Standing, Store},
};
use uuid::Uuid;

use super::world::World;

impl World {
    /// Compares everything, and holds what must hold.
    pub(super) async fn look(&self) {
        for group in self.groups {
            self.look_at(group).await;
        }
        for device in &self.devices {
            self.look_at_device(device).await;
        }
        for &user in &self.users {
            self.both(async |store| store.groups_of(user, None, 100).await.unwrap()).await;
        }
        let references = &self.packages;
        self.both(async |store| {
            let mut told = Vec::new();
            for package in store.issued_packages(references).await.unwrap() {
                let owner = package.owner.device_no;
                told.push((package.reference, owner, package.active, package.usable));
            }
            told.sort_unstable();
            told
        })
        .await;
    }

    async fn look_at_device(&self, device: &Caller) {
        let (number, now) = (device.device_no, self.engines[0].now());
        self.both(async |store| store.windows(number, None).await.unwrap()).await;
        self.both(async |store| {
            format!("{:?}", store.key_stats(number, crate::support::engine::NOON).await.unwrap())
        })
        .await;
        self.both(async |store| {
            let left = store.mailbox_left(number, Position::START, 1000, now).await.unwrap();
            let items = store.mailbox_items(number, &left.positions(), now).await.unwrap();
            let told = items.into_iter().map(|(position, item)| {
                let opens = item.opens_window_of();
                let welcome = match item {
                    Item::Welcome { epoch, welcome, .. } => Some((epoch, welcome)),
                    Item::Joined { .. }
                    | Item::Message(_)
                    | Item::Deleted { .. }
                    | Item::DevicesChanged { .. } => None,
                };
                (position, opens, welcome)
            });
            (left.head, told.collect::<Vec<_>>())
        })
        .await;
    }

    async fn look_at(&self, group: GroupId) {
        let now = self.engines[0].now();
        let members = self.both(async |store| store.members(group).await.unwrap()).await;
        assert_eq!(members.is_some(), self.known.contains_key(&group), "whether it is there");
        let page = async |store: Arc<dyn Store>| {
            let mut page = store.group_log(group, Position::START, 10_000, usize::MAX, now).await.unwrap();
            for entry in &mut page.entries {
                // The store makes the ids of entries that no client named.
                if entry.kind != EntryKind::Application {
                    entry.message_id = MessageId::new(Uuid::nil());
                }
            }
            page
        };
        let Some(members) = members else { return };
        let page = self.both(page).await;
        self.both(async |store| store.invites(group, now).await.unwrap()).await;
        let mut standings = Vec::new();
        for device in &self.devices {
            standings.push(self.standing(group, device).await);
            let windows =
                self.both(async |store| store.windows_in(device.device_no, group).await.unwrap()).await;
            self.hold_windows(device, &windows, &page.entries, page.head);
        }
        self.hold_members(group, &members, &standings);
        self.hold_log(group, &page.entries, page.oldest, page.head);
        let now = &standings[0].group;
        self.look_at_epochs(group, now.generation, now.epoch).await;
    }

    /// Apart from the version, which is any number that changes.
    async fn standing(&self, group: GroupId, device: &Caller) -> Standing {
        self.both(async |store| {
            let standing = store.standing(group, device).await.unwrap().unwrap();
            Standing { version: 0, ..standing }
        })
        .await
    }

    async fn look_at_epochs(&self, group: GroupId, generation: i64, current: Epoch) {
        for epoch in 0..=current.0 {
            let epoch = Epoch(epoch);
            self.both(async |store| {
                let tree = store.ratchet_tree(group, generation, epoch).await.unwrap();
                (tree, store.commit_of(group, generation, epoch).await.unwrap())
            })
            .await;
        }
        let judged = async |store: Arc<dyn Store>| {
            let state = store.handshake_state(group).await.unwrap()?;
            let proposals = state.proposals.into_iter().map(|it| (it.sender, it.target, it.body));
            let proposals = proposals.collect::<Vec<_>>();
            assert_eq!(store.members(group).await.unwrap().unwrap(), state.members);
            let bytes = store.group_state(group, state.state_digest.unwrap()).await.unwrap();
            assert!(bytes.is_some(), "the state of the digest");
            Some((state.generation, state.epoch, state.group_info, proposals, bytes))
        };
        self.both(judged).await;
    }

    /// A window is open exactly while the device is in the group and has not proposed to leave.
    fn hold_members(&self, group: GroupId, members: &[Member], standings: &[Standing]) {
        let known = &self.known[&group];
        let owners = members.iter().filter(|member| member.role == Role::Owner).count();
        assert_eq!(owners, usize::from(!members.is_empty()), "one owner while somebody is there");
        let is_mls = standings[0].group.cipher_suite.is_some();
        for (device, standing) in self.devices.iter().zip(standings) {
            assert_eq!(standing.group.epoch, Epoch(known.epoch), "as many as were accepted");
            assert_eq!(standing.group.oldest_epoch, Epoch(known.oldest_epoch));
            assert_eq!(standing.group.member_count as usize, members.len());
            let own = members.iter().find(|member| member.user_id == device.user_id);
            assert_eq!(standing.role, own.map(|member| member.role));
            let active = !self.ended.contains(&device.device_no);
            let listed = own.and_then(|own| own.devices.iter().find(|it| it.device_no == device.device_no));
            assert!(listed.is_none_or(|listed| listed.active == active));
            assert!(is_mls || own.is_none() || listed.is_some() == active, "every active device of a member");
            let is_in = listed.is_some_and(|listed| active && !listed.leaving);
            assert_eq!(standing.may_write(), is_in, "a window is open for those who are in");
        }
        for member in members {
            assert!(!is_mls || !member.devices.is_empty(), "a user without a leaf is out");
        }
    }

    fn hold_windows(&self, device: &Caller, windows: &[Window], log: &[LogEntry], head: Position) {
        let open: Vec<_> = windows.iter().filter(|window| window.closed_at.is_none()).collect();
        assert!(open.len() <= 1);
        let gates: BTreeSet<Position> = windows.iter().map(|window| window.gate).collect();
        assert_eq!(gates.len(), windows.len(), "each has an item of its own");
        for pair in windows.windows(2) {
            assert!(pair[0].closed_at.is_some_and(|end| end <= pair[1].opened_after), "one after the other");
        }
        for window in windows {
            let end = window.closed_at.unwrap_or(head);
            assert!(window.opened_after <= window.cursor && window.cursor <= end && end <= head);
        }
        let ends: BTreeSet<Position> = windows.iter().filter_map(|window| window.closed_at).collect();
        for entry in log {
            let closes = entry.closes_window_of(device.device_no);
            let gone = self.ended.contains(&device.device_no);
            assert!(
                gone || closes == ends.contains(&entry.position),
                "the entry and the window tell the same"
            );
        }
    }

    fn hold_log(&self, group: GroupId, log: &[LogEntry], oldest: Position, head: Position) {
        assert_eq!(oldest, log.first().map_or(head.next(), |entry| entry.position));
        let jumps = &self.known[&group].jumps;
        let mut expected = oldest;
        for entry in log {
            for (before, after) in jumps {
                if expected == Position(before + 1) {
                    expected = Position(after + 1);
                }
            }
            assert_eq!(entry.position, expected, "no gap");
            assert!(entry.closes.is_sorted());
            let distinct: BTreeSet<DeviceNo> = entry.closes.iter().copied().collect();
            assert_eq!(distinct.len(), entry.closes.len());
            expected = entry.position.next();
        }
    }
}
