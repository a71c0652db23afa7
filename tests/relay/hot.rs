//! What every engine of hot state promises, tried over all of them with two nodes: in process, on one Redis, on a cluster.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test ends where it fails")]

mod budgets;
mod clocks;
mod cluster;
mod crowds;
mod groups;
mod logins;
mod outage;
mod promises;
mod relays;
mod rig;
mod switchboard;

/// One test for each promise and engine; for a cluster, which takes a while to agree, one test for each kind.
macro_rules! suite {
    ($($of:ident { $($promise:ident),* $(,)? })*) => {
        mod local {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let rig = super::rig::Rig::local();
                    super::$of::$promise(&rig).await;
                    rig.finish().await;
                }
            )*)*
        }

        mod redis {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $promise() {
                    let Some(url) = super::rig::redis_url() else { return };
                    let rig = super::rig::Rig::on_redis(&url);
                    super::$of::$promise(&rig).await;
                    rig.finish().await;
                }
            )*)*
        }

        mod redis_cluster {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $of() {
                    let Some(cluster) = crate::support::cluster::PrivateCluster::start().await else { return };
                    $(
                        eprintln!(stringify!($promise));
                        let rig = super::rig::Rig::on_redis(&cluster.url());
                        super::$of::$promise(&rig).await;
                        rig.finish().await;
                    )*
                }
            )*
        }
    };
}

suite! {
    promises {
        an_event_reaches_a_subscribed_other_node_and_not_the_own_one,
        after_subscribe_returns_nothing_is_missed,
        after_unsubscribe_nothing_comes,
        subscribing_twice_brings_an_event_once,
        items_of_a_device_keep_their_order,
        every_kind_of_event_survives_the_trip_unchanged,
        a_heavy_item_travels_as_a_wake_and_is_cached_whole,
        an_unlistened_item_is_cached_and_comes_back_at_its_position_only,
        a_body_that_is_to_be_erased_early_is_not_cached,
        a_listened_item_is_not_cached,
        a_position_that_goes_back_is_not_cached,
        forgotten_items_are_gone_and_the_others_are_not,
        a_forgotten_device_has_nothing_and_may_begin_anew,
        another_devices_items_are_never_given_out,
        many_devices_get_each_their_own,
        the_queue_of_a_device_is_bounded_and_drops_its_oldest,
        a_large_delivery_arrives_whole,
        a_closed_node_hears_nothing_and_the_others_go_on,
        an_open_engine_is_reachable,
    }
    groups {
        an_entry_reaches_a_subscribed_other_node_and_not_the_own_one,
        after_subscribing_to_a_group_no_entry_is_missed,
        after_unsubscribing_from_a_group_no_entry_comes,
        entries_of_a_group_keep_their_order,
        every_kind_of_entry_survives_the_trip_unchanged,
        a_heavy_entry_travels_as_a_wake,
        devices_and_groups_do_not_hear_each_others,
        many_groups_get_each_their_own,
        a_closed_node_hears_of_no_group,
        a_state_is_given_by_its_digest_and_no_other_is,
        a_state_that_is_not_what_its_digest_says_is_not_given,
        a_state_that_is_too_large_is_not_kept_and_neither_is_the_one_before_it,
    }
    budgets {
        a_budget_gives_its_acts_and_then_one_for_each_interval,
        budgets_do_not_touch_each_other,
        of_many_that_race_for_the_last_places_as_many_get_one_as_there_are,
        every_engine_answers_by_the_rule_of_the_domain,
        a_lease_is_as_much_as_there_is_and_counts_for_everybody,
        a_clock_that_was_set_back_locks_nobody_out_for_longer_than_a_period,
        of_many_leases_that_race_none_gives_a_place_twice,
    }
    crowds {
        a_crowd_takes_as_many_holders_as_may_be_over_all_nodes,
        who_is_counted_goes_on_and_who_lets_go_makes_room,
        a_holder_that_nobody_renews_is_forgotten,
        renewing_counts_whoever_it_is,
        a_holder_is_counted_once_on_however_many_nodes,
        a_node_lets_go_of_what_it_holds_and_not_of_what_another_does,
        of_many_that_race_for_the_last_places_in_a_crowd_as_many_get_one_as_there_are,
    }
}
