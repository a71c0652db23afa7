//! Roles, names, join tokens and reports.

use std::time::Duration;

use restante::{
    domain::{Caller, Epoch, GroupId, Role},
    store::{Advance, Advanced, Allowed, Invite, MOST_INVITES},
};

use crate::support::{
    engine::{Engine, on_both_engines},
    mls_mothers as mls, mothers,
};

on_both_engines!(roomy =>
    members_come_owner_first_and_then_as_they_joined,
    only_the_owner_gives_roles,
    an_owner_who_gives_its_role_away_becomes_an_admin,
    an_admin_describes_the_group,
    an_admin_gives_join_tokens_out,
    a_join_token_holds_until_its_end,
    a_group_has_at_most_64_join_tokens,
    a_device_reports_an_epoch_once,
);

async fn set(engine: &Engine, group: GroupId, by: &Caller, user: &Caller, role: Role) -> Allowed {
    engine.store.set_role(group, by, user.user_id, role).await.unwrap()
}

async fn members_come_owner_first_and_then_as_they_joined(engine: Engine) {
    let mut users = Vec::new();
    for _ in 0..5 {
        users.push(engine.mls_newcomer().await);
    }
    let [alice, bob, carol, dave, erin] = users.as_slice() else { panic!("five of them") };
    let group = engine.filled(alice, &[dave]).await;
    engine.advance(Duration::from_secs(1));
    engine.add(group, alice, &[carol]).await;
    engine.add(group, alice, &[bob, erin]).await;
    set(&engine, group, alice, carol, Role::Owner).await;
    let members = engine.members(group).await;
    let order: Vec<_> = members.iter().map(|member| member.user_id).collect();
    assert_eq!(order[..3], [carol.user_id, alice.user_id, dave.user_id]);
    assert!(order[3..].contains(&bob.user_id) && order[3..].contains(&erin.user_id));
    assert_eq!(members[1].joined_at, crate::support::engine::NOON);
    assert_eq!(members[0].joined_at, engine.now());
    assert_eq!(engine.store.members(mls::group_id()).await.unwrap(), None);
}

async fn only_the_owner_gives_roles(engine: Engine) {
    let (alice, bob, carol) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let stranger = engine.newcomer().await;
    let group = engine.roster(&alice, &[&bob, &carol]).await;
    let version = engine.standing(group, &alice).await.version;
    assert_eq!(set(&engine, group, &alice, &bob, Role::Admin).await, Allowed::Done);
    assert_ne!(engine.standing(group, &alice).await.version, version);
    assert_eq!(engine.standing(group, &bob).await.role, Some(Role::Admin));
    let before = engine.tables().await;
    assert_eq!(set(&engine, group, &alice, &bob, Role::Admin).await, Allowed::Done, "it was done before");
    for (by, user, role, refusal) in [
        (&bob, &carol, Role::Admin, Allowed::NotAllowed),
        (&bob, &bob, Role::Owner, Allowed::NotAllowed),
        (&carol, &bob, Role::Member, Allowed::NotAllowed),
        (&stranger, &bob, Role::Member, Allowed::NotMember),
        (&alice, &stranger, Role::Admin, Allowed::Unknown),
        (&alice, &stranger, Role::Owner, Allowed::Unknown),
        (&alice, &alice, Role::Admin, Allowed::NotAllowed),
        (&alice, &alice, Role::Member, Allowed::NotAllowed),
    ] {
        assert_eq!(set(&engine, group, by, user, role).await, refusal);
    }
    let nowhere = set(&engine, mls::group_id(), &alice, &bob, Role::Admin).await;
    assert_eq!(nowhere, Allowed::NotMember);
    for (table, rows) in engine.tables().await {
        assert!(table == "groups" || rows == before[&table], "{table} was changed");
    }
    assert_eq!(set(&engine, group, &alice, &bob, Role::Member).await, Allowed::Done);
    assert_eq!(engine.standing(group, &bob).await.role, Some(Role::Member));
}

async fn an_owner_who_gives_its_role_away_becomes_an_admin(engine: Engine) {
    let (alice, bob, carol) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    for group in [engine.roster(&alice, &[&bob, &carol]).await, engine.filled(&alice, &[&bob, &carol]).await]
    {
        assert_eq!(set(&engine, group, &alice, &bob, Role::Owner).await, Allowed::Done);
        let roles: Vec<_> = engine.members(group).await.iter().map(|it| (it.user_id, it.role)).collect();
        let expected =
            [(bob.user_id, Role::Owner), (alice.user_id, Role::Admin), (carol.user_id, Role::Member)];
        assert_eq!(roles, expected);
        assert_eq!(set(&engine, group, &alice, &carol, Role::Admin).await, Allowed::NotAllowed);
        assert_eq!(set(&engine, group, &bob, &alice, Role::Member).await, Allowed::Done);
    }
}

async fn an_admin_describes_the_group(engine: Engine) {
    let (alice, bob, stranger) = (engine.newcomer().await, engine.newcomer().await, engine.newcomer().await);
    let group = engine.roster(&alice, &[&bob]).await;
    let describe = async |group, by: &Caller, name: Option<&str>, description: Option<&str>| {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        engine.store.describe_group(group, by, owned(name), owned(description)).await.unwrap()
    };
    assert_eq!(describe(group, &bob, Some("x"), None).await, Allowed::NotAllowed);
    assert_eq!(describe(group, &stranger, Some("x"), None).await, Allowed::NotMember);
    assert_eq!(describe(mls::group_id(), &alice, Some("x"), None).await, Allowed::NotMember);
    let named = async || {
        let group = engine.group(group, &alice).await;
        (group.name.unwrap(), group.description)
    };
    assert_eq!(named().await, ("sealed name".to_owned(), None));
    assert_eq!(describe(group, &alice, None, Some("about")).await, Allowed::Done);
    assert_eq!(named().await, ("sealed name".to_owned(), Some("about".to_owned())));
    set(&engine, group, &alice, &bob, Role::Admin).await;
    assert_eq!(describe(group, &bob, Some("new"), None).await, Allowed::Done);
    assert_eq!(describe(group, &bob, None, None).await, Allowed::Done);
    assert_eq!(named().await, ("new".to_owned(), Some("about".to_owned())));
}

async fn invited(engine: &Engine, group: GroupId, token: [u8; 32]) -> bool {
    engine.store.is_invited(group, token, engine.now()).await.unwrap()
}

async fn listed(engine: &Engine, group: GroupId) -> Vec<Invite> {
    engine.store.invites(group, engine.now()).await.unwrap()
}

async fn an_admin_gives_join_tokens_out(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let (invite, token) = (mls::invite(engine.now(), Duration::from_hours(1)), mothers::bytes());
    let before = engine.tables().await;
    for (by, refusal) in [(&bob, Allowed::NotAllowed), (&stranger, Allowed::NotMember)] {
        assert_eq!(engine.store.make_invite(group, by, invite, token).await.unwrap(), refusal);
        assert_eq!(engine.store.revoke_invite(group, by, invite.invite_id).await.unwrap(), refusal);
    }
    engine.assert_unchanged(&before, "one who may not").await;
    assert_eq!(engine.store.make_invite(group, &alice, invite, token).await.unwrap(), Allowed::Done);
    assert!(invited(&engine, group, token).await && !invited(&engine, group, mothers::bytes()).await);
    let elsewhere = engine.filled(&alice, &[]).await;
    assert!(!invited(&engine, elsewhere, token).await, "a token is for one group");
    assert!(listed(&engine, elsewhere).await.is_empty());
    let before = engine.tables().await;
    let elsewhere = engine.store.revoke_invite(elsewhere, &alice, invite.invite_id).await.unwrap();
    assert_eq!(elsewhere, Allowed::Unknown);
    assert_eq!(engine.store.revoke_invite(group, &bob, invite.invite_id).await.unwrap(), Allowed::NotAllowed);
    engine.assert_unchanged(&before, "one who may not").await;
    set(&engine, group, &alice, &bob, Role::Admin).await;
    assert_eq!(engine.store.revoke_invite(group, &bob, invite.invite_id).await.unwrap(), Allowed::Done);
    assert!(!invited(&engine, group, token).await && listed(&engine, group).await.is_empty());
}

async fn a_join_token_holds_until_its_end(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let group = engine.filled(&alice, &[]).await;
    let mut given = Vec::new();
    for minutes in [30, 10, 20] {
        engine.advance(Duration::from_secs(1));
        let (invite, token) = (mls::invite(engine.now(), Duration::from_mins(minutes)), mothers::bytes());
        engine.store.make_invite(group, &alice, invite, token).await.unwrap();
        given.push((invite, token));
    }
    let expected = |which: &[usize]| which.iter().map(|&index| given[index].0).collect::<Vec<_>>();
    assert_eq!(listed(&engine, group).await, expected(&[0, 1, 2]), "oldest first");
    engine.clock.set(given[1].0.expires_at.minus(Duration::from_millis(1)));
    assert!(invited(&engine, group, given[1].1).await);
    engine.clock.set(given[1].0.expires_at);
    assert!(!invited(&engine, group, given[1].1).await && invited(&engine, group, given[2].1).await);
    assert_eq!(listed(&engine, group).await, expected(&[0, 2]));
    engine.expire_all().await;
    assert_eq!(engine.tables().await["group_invites"].len(), 2);
    assert!(invited(&engine, group, given[0].1).await);
}

async fn a_group_has_at_most_64_join_tokens(engine: Engine) {
    let alice = engine.mls_newcomer().await;
    let group = engine.filled(&alice, &[]).await;
    let make = async |life| {
        let invite = mls::invite(engine.now(), life);
        engine.store.make_invite(group, &alice, invite, mothers::bytes()).await.unwrap()
    };
    for number in 0..MOST_INVITES {
        let life = if number == 0 { Duration::from_mins(1) } else { Duration::from_hours(1) };
        assert_eq!(make(life).await, Allowed::Done);
    }
    let before = engine.tables().await;
    assert_eq!(make(Duration::from_hours(1)).await, Allowed::TooMany);
    engine.assert_unchanged(&before, "a token too many").await;
    let in_half_an_hour = engine.now().plus(Duration::from_mins(30));
    let listed = listed(&engine, group).await;
    let lasting = listed.iter().find(|invite| invite.expires_at > in_half_an_hour).unwrap().invite_id;
    engine.store.revoke_invite(group, &alice, lasting).await.unwrap();
    assert_eq!(make(Duration::from_hours(1)).await, Allowed::Done);
    assert_eq!(make(Duration::from_hours(1)).await, Allowed::TooMany);
    engine.advance(Duration::from_mins(2));
    assert_eq!(make(Duration::from_hours(1)).await, Allowed::Done, "one of them ended");
    assert_eq!(make(Duration::from_hours(1)).await, Allowed::TooMany);
}

async fn a_device_reports_an_epoch_once(engine: Engine) {
    let (alice, bob, stranger) =
        (engine.mls_newcomer().await, engine.mls_newcomer().await, engine.mls_newcomer().await);
    let group = engine.filled(&alice, &[&bob]).await;
    let commit: Advance = engine.commit(group, &alice).await;
    assert!(matches!(engine.try_advance(commit.clone()).await, Advanced::Advanced(..)));
    let report = mls::report(&bob, group, Epoch(1), commit.commit.digest);
    let tell = async |report: &restante::store::Report| {
        engine.store.report_commit(report.clone(), engine.now()).await.unwrap()
    };
    let before = engine.tables().await;
    let strange = restante::store::Report { by: stranger.clone(), ..report.clone() };
    assert_eq!(tell(&strange).await, Allowed::NotMember);
    let nowhere = restante::store::Report { group_id: mls::group_id(), ..report.clone() };
    assert_eq!(tell(&nowhere).await, Allowed::NotMember);
    engine.assert_unchanged(&before, "a stranger's report").await;

    assert_eq!(tell(&report).await, Allowed::Done);
    let before = engine.tables().await;
    assert_eq!(before["group_reports"].len(), 1);
    engine.advance(Duration::from_secs(1));
    let other = restante::store::Report { reason: "another".to_owned(), ..report.clone() };
    assert_eq!(tell(&other).await, Allowed::Done);
    engine.assert_unchanged(&before, "a second report").await;
    let owners = mls::report(&alice, group, Epoch(1), commit.commit.digest);
    assert_eq!(tell(&owners).await, Allowed::Done);
    assert_eq!(engine.tables().await["group_reports"].len(), 2);
}
