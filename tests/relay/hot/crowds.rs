//! What is promised of crowds, for any engine.

use std::time::Duration;

use uuid::Uuid;

use super::{budgets::budget, rig::Rig};

const LONG: Duration = Duration::from_mins(1);

pub(super) async fn a_crowd_takes_as_many_holders_as_may_be_over_all_nodes(rig: &Rig) {
    let (one, two, crowd, other) = (&rig.one.hot, &rig.two.hot, budget(), budget());
    for hot in [one, two, one] {
        assert!(hot.hold(crowd, Uuid::new_v4(), 3, LONG).await.unwrap());
    }
    for hot in [one, two] {
        assert!(!hot.hold(crowd, Uuid::new_v4(), 3, LONG).await.unwrap());
        assert!(hot.hold(other, Uuid::new_v4(), 3, LONG).await.unwrap(), "another crowd");
    }
    assert!(two.hold(crowd, Uuid::new_v4(), 4, LONG).await.unwrap());
}

pub(super) async fn who_is_counted_goes_on_and_who_lets_go_makes_room(rig: &Rig) {
    let (one, two, crowd) = (&rig.one.hot, &rig.two.hot, budget());
    let (alice, bob) = (Uuid::new_v4(), Uuid::new_v4());
    assert!(one.hold(crowd, alice, 1, LONG).await.unwrap());
    assert!(one.hold(crowd, alice, 1, LONG).await.unwrap(), "it is counted already");
    assert!(!two.hold(crowd, bob, 1, LONG).await.unwrap());
    two.release(&[(crowd, bob), (budget(), alice)]).await.unwrap();
    assert!(!two.hold(crowd, bob, 1, LONG).await.unwrap(), "neither of these held the place");
    one.release(&[(crowd, alice)]).await.unwrap();
    assert!(two.hold(crowd, bob, 1, LONG).await.unwrap());
}

pub(super) async fn a_holder_that_nobody_renews_is_forgotten(rig: &Rig) {
    let (one, two, crowd) = (&rig.one.hot, &rig.two.hot, budget());
    let (alice, bob, carol) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
    let short = Duration::from_millis(300);
    assert!(one.hold(crowd, alice, 2, short).await.unwrap());
    assert!(one.hold(crowd, bob, 2, short).await.unwrap());
    one.renew(&[(crowd, bob)], LONG).await.unwrap();
    super::rig::until("a holder is forgotten", async || two.hold(crowd, carol, 2, LONG).await.unwrap()).await;
    assert!(!two.hold(crowd, alice, 2, LONG).await.unwrap(), "who was renewed is counted");
}

pub(super) async fn renewing_counts_whoever_it_is(rig: &Rig) {
    let (one, two, crowd) = (&rig.one.hot, &rig.two.hot, budget());
    let held: Vec<_> = (0..600).map(|_| (crowd, Uuid::new_v4())).collect();
    one.renew(&held, LONG).await.unwrap();
    assert!(!two.hold(crowd, Uuid::new_v4(), 600, LONG).await.unwrap());
    one.release(&held[..1]).await.unwrap();
    assert!(two.hold(crowd, Uuid::new_v4(), 600, LONG).await.unwrap());
}

pub(super) async fn a_holder_is_counted_once_on_however_many_nodes(rig: &Rig) {
    let (one, two, crowd) = (&rig.one.hot, &rig.two.hot, budget());
    let (alice, bob) = (Uuid::new_v4(), Uuid::new_v4());
    for hot in [one, two] {
        for holder in [alice, bob] {
            assert!(hot.hold(crowd, holder, 2, LONG).await.unwrap(), "a full crowd has those that it has");
        }
        assert!(!hot.hold(crowd, Uuid::new_v4(), 2, LONG).await.unwrap());
    }
    assert!(one.hold(crowd, Uuid::new_v4(), 3, LONG).await.unwrap());
    assert!(!two.hold(crowd, Uuid::new_v4(), 3, LONG).await.unwrap());
}

pub(super) async fn a_node_lets_go_of_what_it_holds_and_not_of_what_another_does(rig: &Rig) {
    let (one, two, crowd) = (&rig.one.hot, &rig.two.hot, budget());
    let (alice, bob) = (Uuid::new_v4(), Uuid::new_v4());
    for hot in [one, two] {
        assert!(hot.hold(crowd, alice, 1, LONG).await.unwrap());
    }
    one.release(&[(crowd, alice)]).await.unwrap();
    assert!(!one.hold(crowd, bob, 1, LONG).await.unwrap());
    one.renew(&[(crowd, alice)], LONG).await.unwrap();
    two.release(&[(crowd, alice)]).await.unwrap();
    assert!(!two.hold(crowd, bob, 1, LONG).await.unwrap());
    one.release(&[(crowd, alice)]).await.unwrap();
    assert!(two.hold(crowd, bob, 1, LONG).await.unwrap());
}

pub(super) async fn of_many_that_race_for_the_last_places_in_a_crowd_as_many_get_one_as_there_are(rig: &Rig) {
    for _ in 0..10 {
        let crowd = budget();
        let racers = (0..64).map(|number| {
            let hot = if number % 2 == 0 { &rig.one.hot } else { &rig.two.hot }.clone();
            tokio::spawn(async move { hot.hold(crowd, Uuid::new_v4(), 10, LONG).await.unwrap() })
        });
        let held = futures_util::future::join_all(racers.collect::<Vec<_>>()).await;
        assert_eq!(held.into_iter().filter(|held| *held.as_ref().unwrap()).count(), 10);
    }
}
