//! Races for a user id and for the last places of a user's devices, over several nodes.

use futures_util::future::join_all;
use serde_json::Value;
use uuid::Uuid;

use crate::{
    devices::phone_and_tablet,
    support::{
        client::{Answer, Device, Kind},
        crypto::{b64, statement},
        login::{at, log_in},
        relay::{Backend, TestRelay, on_both_backends},
    },
};

on_both_backends! {
    of_sixteen_registrations_of_one_user_id_one_wins,
    no_race_makes_more_devices_than_a_user_may_have,
    of_several_users_of_one_link_token_one_wins,
    deactivations_and_links_leave_a_whole_list,
    of_two_devices_that_deactivate_each_other_one_is_left,
    of_several_devices_that_bring_a_user_back_one_wins,
}

async fn nodes(backend: &Backend, settings: &[(&str, &str)]) -> Vec<TestRelay> {
    if backend.is_production() {
        return backend.cluster(2, settings).await;
    }
    vec![backend.relay(settings).await]
}

/// The active devices of a user, as one of them sees it.
async fn listed(device: &Device) -> Vec<String> {
    let answer = device.get(&format!("/api/v1/keys/devices/{}", device.user_id)).await.is(200);
    let devices = answer["devices"].as_array().unwrap();
    let mut names: Vec<_> =
        devices.iter().map(|device| device["device_id"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Registers all these at the same time.
async fn race(devices: &mut [Device], bodies: &[Value]) -> Vec<Answer> {
    join_all(devices.iter_mut().zip(bodies).map(|(device, body)| device.register(body))).await
}

async fn of_sixteen_registrations_of_one_user_id_one_wins(backend: &Backend) {
    let nodes = nodes(backend, &[]).await;
    for round in 0..4 {
        let user = Uuid::new_v4();
        let mut devices: Vec<_> = (0..16)
            .map(|index| {
                let base = nodes[index % nodes.len()].url();
                // In every other round they even name their devices alike.
                let name = if round % 2 == 0 { format!("device-{index}") } else { "phone".to_owned() };
                Device::of(&base, user, &name, Kind::Ed25519)
            })
            .collect();
        let bodies: Vec<_> = devices.iter_mut().map(Device::registration).collect();
        let answers = race(&mut devices, &bodies).await;
        let won: Vec<_> = (0..16).filter(|index| answers[*index].status == 201).collect();
        assert_eq!(won.len(), 1, "round {round}: {answers:?}");
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            let code = (answer.status, answer.code());
            assert!([(403, "link-required"), (409, "device-exists")].contains(&code), "{answer:?}");
        }
        let winner = &devices[won[0]];
        assert_eq!(listed(winner).await, *std::slice::from_ref(&winner.device_id));
        let bundle = winner.bundle(winner).await.is(200);
        assert_eq!(bundle["identity_key"], bodies[won[0]]["identity_key"]);
    }
}

/// A newcomer that was vouched for, and its registration.
async fn vouched_for(by: &Device, base: &str, name: &str) -> (Device, Value) {
    let mut newcomer = Device::of(base, by.user_id, name, Kind::Ed25519);
    let mut body = newcomer.registration();
    body["link_token"] = by.vouch_for(&newcomer).await.is(201)["link_token"].clone();
    (newcomer, body)
}

async fn no_race_makes_more_devices_than_a_user_may_have(backend: &Backend) {
    let nodes = nodes(backend, &[("MAX_DEVICES", "3")]).await;
    let phone = Device::registered(&nodes[0], Kind::Ed25519).await;
    for round in 0..4 {
        // Whoever is vouched for and comes at once, at whichever node, while others are vouched for.
        let coming = join_all((0..6).map(|index| {
            let (phone, base) = (&phone, nodes[index % nodes.len()].url());
            async move {
                let name = format!("tablet-{round}-{index}");
                let mut newcomer = Device::of(&base, phone.user_id, &name, Kind::Ed25519);
                let mut body = newcomer.registration();
                let offer = at(&base, phone).post("/api/v1/keys/link/me", &phone.vouch(&newcomer)).await;
                if offer.status != 201 {
                    return (newcomer, offer);
                }
                body["link_token"] = offer["link_token"].clone();
                let answer = newcomer.register(&body).await;
                (newcomer, answer)
            }
        }))
        .await;
        let came = coming.iter().filter(|(_, answer)| answer.status == 201).count();
        let there = listed(&phone).await;
        assert_eq!(there.len(), came + 1, "round {round}: {there:?} {:?}", answers(&coming));
        assert!(there.len() <= 3, "round {round}: {there:?}");
        for (newcomer, answer) in &coming {
            assert!(matches!(answer.status, 201 | 403 | 409), "{answer:?}");
            if answer.status == 201 {
                phone.deactivate(newcomer).await.is(200);
            }
        }
    }
    let one = phone.linked("one").await;
    phone.linked("two").await;
    let (mut third, body) = vouched_for(&phone, &nodes[0].url(), "three").await;
    third.register(&body).await.refused(409, "too-many-devices");
    phone.deactivate(&one).await.is(200);
    third.register(&body).await.is(201);
}

fn answers(coming: &[(Device, Answer)]) -> Vec<&Answer> {
    coming.iter().map(|(_, answer)| answer).collect()
}

async fn of_several_users_of_one_link_token_one_wins(backend: &Backend) {
    let nodes = nodes(backend, &[]).await;
    let phone = Device::registered(&nodes[0], Kind::Ed25519).await;
    for round in 0..6 {
        let name = format!("tablet-{round}");
        let (newcomer, body) = vouched_for(&phone, &nodes[0].url(), &name).await;
        let path = format!("/api/v1/keys/register/{}", phone.user_id);
        let seats: Vec<_> = (0..4).map(|index| at(&nodes[index % nodes.len()].url(), &newcomer)).collect();
        let registering = seats.iter().map(|seat| seat.anonymous(reqwest::Method::POST, &path, Some(&body)));
        let answers = join_all(registering).await;
        let won = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!(won, 1, "round {round}: {answers:?}");
        assert_eq!(listed(&phone).await, [String::from("phone"), name]);
        phone.delete(&newcomer.own("deactivate"), None).await.is(200);
    }
}

async fn deactivations_and_links_leave_a_whole_list(backend: &Backend) {
    let nodes = nodes(backend, &[]).await;
    let phone = Device::registered(&nodes[0], Kind::Ed25519).await;
    let there = at(&nodes[nodes.len() - 1].url(), &phone);
    let mut leaving = phone.linked("tablet-0").await;
    for round in 1..8 {
        let name = format!("tablet-{round}");
        let (mut newcomer, body) = vouched_for(&phone, &nodes[0].url(), &name).await;
        // The one that leaves is deactivated twice, by two nodes, while the other comes.
        let (ended, again, came) =
            tokio::join!(phone.deactivate(&leaving), there.deactivate(&leaving), newcomer.register(&body));
        let mut statuses = [ended.status, again.status];
        statuses.sort_unstable();
        assert!([[200, 200], [200, 404]].contains(&statuses), "{ended:?} {again:?}");
        came.is(201);
        assert_eq!(listed(&phone).await, [String::from("phone"), name]);
        let page = phone.queue("limit=100").await.is(200);
        let notices = page["notices"].as_array().unwrap();
        assert_eq!(notices.len(), 1, "a newer list takes the place of the older: {page}");
        assert_eq!(super::names(&notices[0]), ["phone".to_owned(), format!("tablet-{round}")]);
        leaving = newcomer;
    }
}

async fn of_two_devices_that_deactivate_each_other_one_is_left(backend: &Backend) {
    let (nodes, clock) =
        super::cluster_at_noon(backend, if backend.is_production() { 2 } else { 1 }, &[]).await;
    for round in 0..4 {
        let (phone, tablet) = phone_and_tablet(&nodes[0].url()).await;
        clock.advance(std::time::Duration::from_hours(25));
        let phone = log_in(&phone).await;
        let tablet = log_in(&tablet).await;
        let there = at(&nodes[nodes.len() - 1].url(), &tablet);
        let (one, other) = tokio::join!(phone.deactivate(&tablet), there.deactivate(&phone));
        let won = [&one, &other].into_iter().filter(|answer| answer.status == 200).count();
        assert_eq!(won, 1, "round {round}: {one:?} {other:?}");
        let left = if one.status == 200 { &phone } else { &tablet };
        assert_eq!(listed(left).await, *std::slice::from_ref(&left.device_id));
    }
}

async fn of_several_devices_that_bring_a_user_back_one_wins(backend: &Backend) {
    let nodes = nodes(backend, &[]).await;
    let mut last = Device::registered(&nodes[0], Kind::Ed25519).await;
    for round in 0..4 {
        last.deactivate(&last).await.is(200);
        let user = last.user_id.to_string();
        let mut devices: Vec<_> = (0..8)
            .map(|index| {
                let base = nodes[index % nodes.len()].url();
                Device::of(&base, last.user_id, &format!("again-{round}-{index}"), Kind::Ed25519)
            })
            .collect();
        let mut bodies = Vec::new();
        for device in &mut devices {
            let (mut body, identity) = (device.registration(), device.keys.identity());
            let parts: [&[u8]; 4] = [b"restante-recover-v1", b"localhost", user.as_bytes(), &identity];
            body["recovery_proof"] = b64(last.keys.sign(&statement(&parts))).into();
            bodies.push(body);
        }
        let answers = race(&mut devices, &bodies).await;
        let mut winners: Vec<_> =
            devices.into_iter().zip(&answers).filter(|(_, answer)| answer.status == 201).collect();
        assert_eq!(winners.len(), 1, "round {round}: {answers:?}");
        for lost in answers.iter().filter(|answer| answer.status != 201) {
            lost.clone().refused(403, "link-required");
        }
        last = winners.remove(0).0;
        assert_eq!(listed(&last).await, *std::slice::from_ref(&last.device_id));
    }
}
