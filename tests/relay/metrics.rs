//! What the relay tells its operator: every figure that is described, and nothing about anybody.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use crate::support::{
    client::{Device, Kind, opaque_send},
    faults::nowhere,
    relay::{Backend, on_both_backends},
    socket::Socket,
    wait,
};

on_both_backends! {
    every_figure_is_described_and_no_other,
    figures_follow_what_happens_and_name_nobody,
    a_repeat_is_not_counted_again,
    without_an_address_nothing_tells_figures,
    figures_may_be_guarded_by_a_token,
    what_groups_and_requests_give_is_counted,
}

const PATIENCE: Duration = Duration::from_secs(15);

const TOLD: (&str, &str) = ("METRICS_ADDRESS", "127.0.0.1:0");

/// The value of a series as the page has it: its name and its labels. All that is asked for here is whole.
fn value(page: &str, series: &str) -> u64 {
    let of = |line: &str| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok();
    page.lines().find_map(of).unwrap_or_else(|| panic!("{series} in:\n{page}"))
}

async fn every_figure_is_described_and_no_other(backend: &Backend) {
    let relay = backend.relay(&[TOLD]).await;
    let page = relay.metrics().await;
    let told: BTreeSet<(&str, &str)> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let described = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("proto-docs/metrics.md"));
    let described = described.unwrap();
    let row = |line: &'_ str| -> Option<(String, String)> {
        let mut cells = line.strip_prefix("| `")?.split('|').map(|cell| cell.trim().trim_matches('`'));
        Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
    };
    let described: Vec<_> = described.lines().filter_map(row).collect();
    assert!(described.len() >= 12, "{described:?}");
    let described = described.iter().map(|(name, kind)| (name.as_str(), kind.as_str())).collect();
    assert_eq!(told, described);
    let help = page.lines().filter(|line| line.starts_with("# HELP ")).count();
    assert_eq!(help, told.len(), "each is described on the page too");
}

async fn figures_follow_what_happens_and_name_nobody(backend: &Backend) {
    let relay = backend.relay(&[TOLD]).await;
    let alice = Device::registered(&relay, Kind::Signal).await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    let mut socket = Socket::open(&bob).await;
    alice.send(&opaque_send(bob.user_id)).await.is(201);
    let frame = socket.expect("message").await;
    assert_eq!(value(&relay.metrics().await, "restante_connections"), 1);
    socket.ack(&[&frame["message_id"]]).await;
    drop(socket);
    wait::until(PATIENCE, "the socket's end is counted", async || {
        let page = relay.metrics().await;
        value(&page, r#"restante_sockets_closed_total{reason="gone"}"#) == 1
            && value(&page, "restante_connections") == 0
    })
    .await;

    let page = relay.metrics().await;
    for (series, expected) in [
        ("restante_messages_accepted_total", 1),
        ("restante_items_acked_total", 1),
        (r#"restante_batch_items_count{lane="sends"}"#, 1),
        (r#"restante_batch_items_sum{lane="sends"}"#, 1),
        (r#"restante_commit_seconds_count{lane="acks"}"#, 1),
        (r#"restante_overloaded_total{lane="sends"}"#, 0),
        ("restante_hot_reachable", 1),
        (r#"restante_hot_failures_total{act="deliver"}"#, 0),
        (r#"restante_items_delivered_total{way="socket"}"#, 1),
        ("restante_drain_seconds_count", 1),
        (r#"restante_waiting{queue="sends"}"#, 0),
        (r#"restante_waiting{queue="hot delivery"}"#, 0),
        (r#"restante_job_failures_total{task="reconcile"}"#, 0),
        ("restante_panics_total", 0),
        ("restante_reconciler_finds_total", 0),
    ] {
        assert_eq!(value(&page, series), expected, "{series} in:\n{page}");
    }
    let open = |pool: &str| {
        ["busy", "idle"].map(|state| {
            value(&page, &format!(r#"restante_db_connections{{pool="{pool}",state="{state}"}}"#))
        })
    };
    let pool = if backend.is_production() { "polls" } else { "writer" };
    assert_eq!(open(pool).iter().sum::<u64>(), 1);
    let secrets = [alice.user_id.to_string(), bob.user_id.to_string(), bob.device_id.clone()];
    for secret in secrets {
        assert!(!page.contains(&secret), "{page}");
    }
    let labels: BTreeSet<_> =
        page.split(['{', ',']).filter_map(|part| part.split_once("=\"")).map(|(label, _)| label).collect();
    assert_eq!(
        labels,
        BTreeSet::from([
            "act", "lane", "le", "limit", "of", "outcome", "pool", "queue", "reason", "state", "task",
            "version", "way"
        ])
    );
}

async fn a_repeat_is_not_counted_again(backend: &Backend) {
    let relay = backend.relay(&[TOLD]).await;
    let alice = Device::registered(&relay, Kind::Signal).await;
    let bob = Device::registered(&relay, Kind::Signal).await;
    let mut send = opaque_send(bob.user_id);
    send["message_id"] = serde_json::json!(uuid::Uuid::new_v4());
    alice.send(&send).await.is(201);
    alice.send(&send).await.is(200);
    let page = relay.metrics().await;
    assert_eq!(value(&page, "restante_messages_accepted_total"), 1);
    assert_eq!(value(&page, r#"restante_batch_items_count{lane="sends"}"#), 2);
}

async fn without_an_address_nothing_tells_figures(backend: &Backend) {
    let relay = backend.relay(&[]).await;
    let answer = reqwest::get(format!("{}/metrics", relay.url())).await.unwrap();
    assert_eq!(answer.status(), 404);
}

async fn figures_may_be_guarded_by_a_token(backend: &Backend) {
    let relay = backend.relay(&[TOLD, ("METRICS_TOKEN", "let-prometheus-in")]).await;
    let ask = async |token: Option<&str>| {
        let request = reqwest::Client::new().get(relay.metrics_url());
        let request = match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        request.send().await.unwrap()
    };
    for token in [None, Some(""), Some("let-prometheus-ix"), Some("let-prometheus-in-")] {
        let refused = ask(token).await;
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["www-authenticate"]),
            (401, &"Bearer".parse().unwrap())
        );
        assert_eq!(refused.text().await.unwrap(), "");
    }
    assert!(ask(Some("let-prometheus-in")).await.text().await.unwrap().contains("restante_connections"));
}

async fn what_groups_and_requests_give_is_counted(backend: &Backend) {
    let relay = backend.relay(&[TOLD]).await;
    let alice = Device::registered(&relay, Kind::Ed25519).await;
    let bob = Device::registered(&relay, Kind::Ed25519).await;
    let group = alice.founds(&[&bob]).await;
    alice.says(group).await;
    let stored = value(&relay.metrics().await, "restante_group_entries_total");
    alice.says(group).await;
    assert_eq!(value(&relay.metrics().await, "restante_group_entries_total"), stored + 1);
    let queue = bob.queue("limit=100").await.is(200);
    let entries = queue["groups"][0]["entries"].as_array().unwrap().len() as u64;
    let page = relay.metrics().await;
    assert_eq!(
        value(&page, r#"restante_items_delivered_total{way="request"}"#),
        queue["count"].as_u64().unwrap()
    );
    assert_eq!(value(&page, r#"restante_group_entries_delivered_total{way="request"}"#), entries);
    assert!(entries >= 2 && queue["count"].as_u64() >= Some(1), "{queue}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_cannot_publish_is_seen_in_what_the_reconciler_finds() {
    let Some(backend) = Backend::production().await else { return };
    let redis = format!("redis://{}", nowhere());
    let sending = backend.relay(&[TOLD, ("REDIS_URL", &redis)]).await;
    let receiving = backend.relay(&[TOLD]).await;
    let alice = Device::registered(&sending, Kind::Ed25519).await;
    let bob = Device::registered(&receiving, Kind::Ed25519).await;
    let mut socket = Socket::open(&bob).await;
    socket.expect("queue_drained").await;
    alice.send_opaque(bob.user_id).await;
    socket.expect("message").await;
    wait::until(PATIENCE, "the find is counted", async || {
        value(&receiving.metrics().await, "restante_reconciler_finds_total") == 1
    })
    .await;
    let page = sending.metrics().await;
    assert_eq!(value(&page, "restante_hot_reachable"), 0);
    assert!(value(&page, r#"restante_hot_failures_total{act="deliver"}"#) >= 1, "{page}");
    assert_eq!(value(&receiving.metrics().await, "restante_hot_reachable"), 1);
    backend.finish().await;
}
