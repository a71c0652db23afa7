//! A user is in no more groups than it may be.

use restante::store::{
    Advance, Advanced, CannotAdd, ExternalJoiner, GroupCreated, GroupReset, NewGroup, RosterChanged,
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls_mothers as mls,
};

on_both_engines!(sparing =>
    nobody_comes_into_more_groups_than_a_user_may_be_in,
    who_is_in_a_group_already_may_be_in_it,
);

async fn nobody_comes_into_more_groups_than_a_user_may_be_in(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let (roster, group) = (engine.roster(&carol, &[]).await, engine.filled(&carol, &[]).await);
    engine.roster(&alice, &[&bob]).await;
    let left = engine.filled(&alice, &[&bob]).await;
    let joiner = engine.joiner(&bob, 1).await;
    let token = crate::support::mothers::bytes();
    let invite = mls::invite(engine.now(), std::time::Duration::from_hours(1));
    engine.store.make_invite(group, &carol, invite, token).await.unwrap();
    let full = CannotAdd::TooManyGroups(bob.user_id);
    let before = engine.tables().await;
    for new in [mls::roster(&bob, &[]), mls::group(&bob)] {
        assert_eq!(engine.try_create(new).await, GroupCreated::CannotAdd(full));
    }
    let refused = engine.try_change(roster, &carol, &[&bob, &alice], &[]).await;
    assert_eq!(refused, RosterChanged::CannotAdd(full), "the first of two is named");
    let joiners = vec![joiner.clone()];
    let added = Advance { joiners: joiners.clone(), ..engine.commit(group, &carol).await };
    assert_eq!(engine.try_advance(added).await, Advanced::CannotAdd(full));
    let external = Some(ExternalJoiner { leaf_index: Some(1), invite: Some(token) });
    let joins = Advance { external, ..engine.commit(group, &bob).await };
    assert_eq!(engine.try_advance(joins).await, Advanced::CannotAdd(full));
    let anew = NewGroup { group_id: group, ..mls::filled(&carol, joiners.clone()) };
    let reset = engine.store.reset_group(anew, 0, engine.now()).await.unwrap();
    assert_eq!(reset, GroupReset::CannotAdd(full));
    engine.assert_unchanged(&before, "a user in as many groups as it may be").await;

    engine.remove(left, &alice, &[&bob]).await;
    engine.advanced(Advance { joiners, ..engine.commit(group, &carol).await }).await;
    let refused = engine.try_change(roster, &carol, &[&bob], &[]).await;
    assert_eq!(refused, RosterChanged::CannotAdd(full), "it is in two again");
}

async fn who_is_in_a_group_already_may_be_in_it(engine: Engine) {
    let (alice, bob) = (engine.mls_newcomer().await, engine.mls_newcomer().await);
    let tablet = engine.mls_link(&bob, "tablet").await;
    let (roster, group) = (engine.roster(&alice, &[&bob]).await, engine.filled(&alice, &[&bob]).await);
    engine.add(group, &alice, &[&tablet]).await;
    engine.changed(roster, &alice, &[&bob], &[]).await;
    let joiners = engine.joiners(1, &[&bob]).await;
    let anew = NewGroup { group_id: group, ..mls::filled(&alice, joiners) };
    let reset = engine.store.reset_group(anew, 0, engine.now()).await.unwrap();
    assert!(matches!(reset, GroupReset::Reset(..)), "{reset:?}");
}
