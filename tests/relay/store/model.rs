//! Random acts against a model that keeps everything in plain collections: the store answers as the model does, and
//! the same items are left.

mod plain;

use std::{collections::BTreeSet, time::Duration};

use plain::Model;
use proptest::{prelude::*, test_runner::TestRunner};
use restante::domain::UserId;
use tokio::runtime::Runtime;

use crate::support::{
    engine::{self, Engine, tight},
    mothers, postgres,
};

/// One act. Indices are taken modulo what there is.
#[derive(Debug, Clone)]
enum Act {
    Send { from: usize, to: usize, minutes: u64 },
    Repeat { send: usize, altered: bool },
    Ack { device: usize, positions: Vec<i64> },
    DeleteForMe { send: usize, user: usize },
    DeleteForEveryone { send: usize, user: usize },
    // A user's second device comes, or goes if it is there.
    ChangeDevices { user: usize },
    Expire,
    Advance { minutes: u64 },
    StepBack { minutes: u64 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let minutes = || prop_oneof![3 => 1..120_u64, 1 => Just(29 * 24 * 60), 1 => Just(31 * 24 * 60)];
    let act = prop_oneof![
        8 => (0..6_usize, 0..3_usize, minutes()).prop_map(|(from, to, minutes)| Act::Send { from, to, minutes }),
        2 => (any::<usize>(), any::<bool>()).prop_map(|(send, altered)| Act::Repeat { send, altered }),
        3 => (0..6_usize, prop::collection::vec(0..12_i64, 0..4))
            .prop_map(|(device, positions)| Act::Ack { device, positions }),
        1 => (any::<usize>(), 0..3_usize).prop_map(|(send, user)| Act::DeleteForMe { send, user }),
        3 => (any::<usize>(), 0..3_usize).prop_map(|(send, user)| Act::DeleteForEveryone { send, user }),
        2 => (0..3_usize).prop_map(|user| Act::ChangeDevices { user }),
        2 => Just(Act::Expire),
        2 => minutes().prop_map(|minutes| Act::Advance { minutes }),
        1 => (1..90_u64).prop_map(|minutes| Act::StepBack { minutes }),
    ];
    prop::collection::vec(act, 1..60)
}

/// Three users, each with a device that stays and perhaps a second one, who act, and are compared after every act.
async fn agree(engine: &Engine, acts: Vec<Act>) {
    let devices = [engine.newcomer().await, engine.newcomer().await, engine.newcomer().await];
    let users = devices.each_ref().map(|device| device.user_id);
    let mut model = Model::of(devices.to_vec());
    let mut ever = BTreeSet::new();
    for act in acts {
        perform(engine, &mut model, &users, act).await;
        ever.extend(model.devices.iter().map(|device| device.device_no));
        for &device in &ever {
            let left = engine.left(device).await;
            let positions: Vec<i64> = left.positions().iter().map(|position| position.0).collect();
            assert_eq!((positions, left.head.0), model.left(device, engine.now()));
            let items = engine.items(device).await;
            assert_eq!(items.len(), left.positions().len());
        }
    }
}

async fn change_devices(engine: &Engine, model: &mut Model, user: UserId) {
    let own: Vec<_> = model.devices.iter().filter(|device| device.user_id == user).cloned().collect();
    if let [_, second] = own.as_slice() {
        engine.deactivate(second, second).await;
        model.end(second, engine.now());
    } else {
        let second = engine.link_unread(&own[0], "tablet").await;
        model.devices.push(second.clone());
        model.tell_of_devices(user, Some(second.device_no), engine.now());
    }
    let listed = engine.listed(user).await;
    for device in model.devices.iter().filter(|device| device.user_id == user) {
        let notices = engine.notices(device.device_no).await;
        assert!(notices.len() <= 1 && notices.iter().all(|(_, list)| *list == listed), "{notices:?}");
    }
}

async fn perform(engine: &Engine, model: &mut Model, users: &[UserId; 3], act: Act) {
    let now = engine.now();
    match act {
        Act::Send { from, to, minutes } => {
            let from = model.devices[from % model.devices.len()].clone();
            let life = Duration::from_mins(minutes);
            let send = mothers::fleeting(&from, users[to % users.len()], now, life);
            model.send(&send, &engine.accept(send.clone()).await);
        }
        Act::Repeat { send, altered } if !model.sends.is_empty() => {
            let mut send = model.sends[send % model.sends.len()].send.clone();
            if altered {
                send.digest = mothers::bytes();
            }
            model.send(&send, &engine.accept(send.clone()).await);
        }
        Act::Ack { device, positions } => {
            let device = model.devices[device % model.devices.len()].device_no;
            let places: Vec<_> = positions.iter().map(|&position| (device, position)).collect();
            let removed = engine.ack(device, &positions).await;
            assert_eq!(removed as usize, model.erase(&places));
        }
        Act::DeleteForMe { send, user } if !model.sends.is_empty() => {
            let (index, user) = (send % model.sends.len(), users[user % users.len()]);
            let message = model.sends[index].send.message_id;
            let hidden = engine.store.delete_for_me(user, message).await.unwrap();
            assert_eq!(hidden.is_some(), model.delete_for_me(index, user));
        }
        Act::DeleteForEveryone { send, user } if !model.sends.is_empty() => {
            let (index, user) = (send % model.sends.len(), users[user % users.len()]);
            let message = model.sends[index].send.message_id;
            let deleted = engine.store.delete_for_everyone(user, message, now).await.unwrap();
            assert_eq!(deleted, model.delete_for_everyone(index, user, now));
        }
        Act::ChangeDevices { user } => change_devices(engine, model, users[user % users.len()]).await,
        Act::Expire => {
            engine.store.expire(now, 1000).await.unwrap();
            model.expire(now);
        }
        Act::Advance { minutes } => engine.advance(Duration::from_mins(minutes)),
        Act::StepBack { minutes } => engine.clock.set(now.minus(Duration::from_mins(minutes))),
        Act::Repeat { .. } | Act::DeleteForMe { .. } | Act::DeleteForEveryone { .. } => {}
    }
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() })
}

#[test]
fn sqlite_agrees_with_the_model() {
    let runtime = Runtime::new().unwrap();
    let run = |acts| {
        runtime.block_on(async { agree(&engine::sqlite(tight()).await, acts).await });
        Ok(())
    };
    runner(48).run(&acts(), run).unwrap();
}

#[test]
fn postgres_agrees_with_the_model() {
    let runtime = Runtime::new().unwrap();
    let Some((engine, database)) = runtime.block_on(postgres::make(tight())) else { return };
    // Every case has users of its own, so one database serves all.
    let run = |acts| {
        engine.clock.set(engine::NOON);
        runtime.block_on(agree(&engine, acts));
        Ok(())
    };
    let result = runner(24).run(&acts(), run);
    runtime.block_on(database.drop());
    result.unwrap();
}
