//! The largest groups.

use futures_util::{StreamExt as _, stream};
use restante::{
    domain::{Caller, MAX_MEMBERS, UserId},
    store::{Advance, Advanced, CannotAdd, GroupCreated, Joiner, OneTimeKeys, Registration, RosterChanged},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls_mothers as mls, mothers,
};

on_both_engines!(roomy =>
    a_roster_group_has_1500_members_and_no_more,
    an_mls_group_has_1500_leaves_and_no_more,
);

const FULL: CannotAdd = CannotAdd::GroupFull;

/// As many users as a group may have and one more, each with one device.
async fn crowd(engine: &Engine, packages: usize) -> Vec<Caller> {
    let registering = stream::iter(0..=MAX_MEMBERS).map(async |_| {
        let full = mls::registration(mothers::user(), "phone");
        let upload = mls::one_time(&full.packages.packages[..packages]);
        engine.register(Registration { packages: upload, ..full }).await
    });
    registering.buffered(8).collect().await
}

async fn a_roster_group_has_1500_members_and_no_more(engine: Engine) {
    let crowd = crowd(&engine, 0).await;
    let (founder, others) = crowd.split_first().unwrap();
    let users: Vec<UserId> = others.iter().map(|other| other.user_id).collect();
    let before = engine.tables().await;
    let refused = engine.try_create(mls::roster(founder, &users)).await;
    assert_eq!(refused, GroupCreated::CannotAdd(FULL), "the founder is one more");
    engine.assert_unchanged(&before, "a group that would be too large").await;

    let (last, others) = others.split_last().unwrap();
    let group = engine.created(mls::roster(founder, &users[..MAX_MEMBERS - 1])).await;
    assert_eq!(group.member_count as usize, MAX_MEMBERS);
    let group = group.group_id;
    for device in [&others[0], &others[MAX_MEMBERS - 2]] {
        assert_eq!(engine.window(device, group).await.closed_at, None);
    }
    let before = engine.tables().await;
    let refused = engine.try_change(group, founder, &[last], &[]).await;
    assert_eq!(refused, RosterChanged::CannotAdd(FULL));
    engine.assert_unchanged(&before, "a member too many").await;
    engine.changed(group, founder, &[], &[&others[7]]).await;
    engine.changed(group, founder, &[last], &[]).await;
    assert_eq!(engine.members(group).await.len(), MAX_MEMBERS);

    // One entry, however many read it.
    engine.emitted_all();
    engine.say(group, last).await;
    let (items, entries) = engine.emitted_all();
    assert_eq!((items.len(), entries.len()), (0, 1));
}

async fn an_mls_group_has_1500_leaves_and_no_more(engine: Engine) {
    let crowd = crowd(&engine, 1).await;
    let mut joiners = Vec::new();
    for (leaf, device) in (0..).zip(&crowd) {
        let package = engine.claim(device.user_id, OneTimeKeys::Given).await.remove(0).1;
        joiners.push(Joiner {
            device_no: device.device_no,
            reference: mls::reference_of(&package),
            leaf_index: Some(leaf),
            welcome: mls::body(),
        });
    }
    let founder = &crowd[0];
    let before = engine.tables().await;
    let refused = engine.try_create(mls::filled(founder, joiners[1..].to_vec())).await;
    assert_eq!(refused, GroupCreated::CannotAdd(FULL), "the founder is one more");
    engine.assert_unchanged(&before, "a group that would be too large").await;

    let group = engine.created(mls::filled(founder, joiners[1..MAX_MEMBERS].to_vec())).await;
    assert_eq!(group.member_count as usize, MAX_MEMBERS);
    let (group, last) = (group.group_id, joiners[MAX_MEMBERS].clone());
    let issued = joiners[1..].iter().map(|joiner| joiner.reference).collect::<Vec<_>>();
    let usable = async || {
        let issued = engine.store.issued_packages(&issued).await.unwrap();
        issued
            .into_iter()
            .filter(|package| package.usable)
            .map(|package| package.reference)
            .collect::<Vec<_>>()
    };
    assert_eq!(usable().await, [last.reference]);
    let before = engine.tables().await;
    let commit = Advance { joiners: vec![last], ..engine.commit(group, founder).await };
    assert_eq!(engine.try_advance(commit.clone()).await, Advanced::CannotAdd(FULL));
    engine.assert_unchanged(&before, "a leaf too many").await;
    let removed = vec![crowd[9].device_no];
    engine.advanced(Advance { removed, ..commit }).await;
    assert!(usable().await.is_empty());
    assert!(engine.may_write(group, &crowd[MAX_MEMBERS]).await && !engine.may_write(group, &crowd[9]).await);
}
