//! What the MLS rules cost the relay in a group of 1,500, in CPU time of one core.
//!
//! Building the populated tree takes some minutes: half of the members come in by external commits of their own.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a bench that cannot be set up has to stop")]

#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../tests/relay/mls_rules"]
mod mls_rules {
    pub(crate) mod device;
    pub(crate) mod world;
}

use std::{hint::black_box, time::Duration};

use criterion::{
    Criterion, criterion_group, criterion_main,
    measurement::{Measurement, ValueFormatter, WallTime},
};
use mls_rs::MlsMessage;
use restante::{
    domain::{ExternalJoin, MAX_MEMBERS, Member, Role, UserId},
    groups::mls::Header,
};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

use mls_rules::{
    device::{Device, Manner, Session, bytes},
    world::{Sent, World, entrance},
};

/// Nanoseconds that this thread has run.
struct CpuTime;

impl CpuTime {
    fn now() -> u64 {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
    }
}

impl Measurement for CpuTime {
    type Intermediate = u64;
    type Value = u64;

    fn start(&self) -> u64 {
        Self::now()
    }

    fn end(&self, start: u64) -> u64 {
        Self::now() - start
    }

    fn add(&self, first: &u64, second: &u64) -> u64 {
        first + second
    }

    fn zero(&self) -> u64 {
        0
    }

    #[expect(clippy::cast_precision_loss, reason = "2^53 ns are a hundred days")]
    fn to_f64(&self, value: &u64) -> f64 {
        *value as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        // Both count nanoseconds.
        static WALL: WallTime = WallTime;
        WALL.formatter()
    }
}

fn device(number: usize, manner: Manner) -> Device {
    Device::new(UserId::new(Uuid::from_u128(number as u128)), "desk", manner)
}

/// A group of the founder, and what fills it.
struct Full {
    world: World,
    founder: Device,
    session: Session,
    filling: Sent,
}

fn full(manner: Manner) -> Full {
    let founder = device(1, manner);
    let (mut world, mut session) = World::found(&founder, manner);
    let devices: Vec<_> = (2..=MAX_MEMBERS).map(|number| device(number, manner)).collect();
    let packages: Vec<_> = devices.iter().map(|device| world.claim(device)).collect();
    let mut builder = session.commit_builder();
    for package in packages {
        builder = builder.add_member(package).unwrap();
    }
    let filling = Sent::from(&builder.build().unwrap());
    session.apply_pending_commit().unwrap();
    Full { world, founder, session, filling }
}

/// Update, remove, and, after one has gone, add: each judged again and again against the same state.
fn handshakes(
    criterion: &mut Criterion<CpuTime>,
    tree: &str,
    world: &mut World,
    by: &Device,
    session: &mut Session,
) {
    let mut group = criterion.benchmark_group(format!("{tree} tree of {MAX_MEMBERS}"));
    group.sample_size(20);
    let mut judge = |name: &str, world: &World, sent: &Sent| {
        println!("{tree}/{name}: commit {} bytes, state {} bytes", sent.commit.len(), world.state.len());
        group.bench_function(name, |bencher| bencher.iter(|| world.judge(by, black_box(sent)).unwrap()));
    };
    let update = Sent::from(&session.commit_builder().build().unwrap());
    session.clear_pending_commit();
    judge("update", world, &update);
    let remove = Sent::from(&session.commit_builder().remove_member(700).unwrap().build().unwrap());
    judge("remove", world, &remove);
    world.accept(by, &remove);
    session.apply_pending_commit().unwrap();
    let newcomer = device(MAX_MEMBERS + 10, world.manner);
    let package = world.claim(&newcomer);
    let add = Sent::from(&session.commit_builder().add_member(package).unwrap().build().unwrap());
    session.clear_pending_commit();
    judge("add", world, &add);
    group.finish();
}

fn commits(criterion: &mut Criterion<CpuTime>) {
    let manner = Manner { external_join: ExternalJoin::Resync, ..Manner::default() };
    let Full { mut world, founder, mut session, filling } = full(manner);
    let mut group = criterion.benchmark_group("bulk");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function("add 1499", |bencher| {
        bencher.iter(|| world.judge(&founder, black_box(&filling)).unwrap());
    });
    group.finish();
    world.accept(&founder, &filling);
    handshakes(criterion, "blank", &mut world, &founder, &mut session);

    // Every second device takes its own leaf anew, and fills the parents above it.
    let Full { mut world, founder, filling, .. } = full(manner);
    world.accept(&founder, &filling);
    populate(criterion, world, manner);
}

fn populate(criterion: &mut Criterion<CpuTime>, mut world: World, manner: Manner) {
    let mut last = None;
    for leaf in (1..MAX_MEMBERS).step_by(2) {
        let leaf = u32::try_from(leaf).unwrap();
        let is_there = |member: &&Member| member.devices[0].leaf_index == Some(leaf);
        let member = world.members.iter().find(is_there).unwrap();
        // Its client begins anew, with another key.
        let mut device = Device::new(member.user_id, "desk", manner);
        device.caller.device_no = member.devices[0].device_no;
        let (sent, session) = entrance(&world, &device, Some(leaf));
        world.accept(&device, &sent);
        last = Some((device, session));
    }
    let (by, mut session) = last.unwrap();
    world.role(&by, Role::Admin);
    handshakes(criterion, "populated", &mut world, &by, &mut session);
}

fn headers(criterion: &mut Criterion<CpuTime>) {
    let manner = Manner::default();
    let founder = device(1, manner);
    let (mut world, mut session) = World::found(&founder, manner);
    world.add(&founder, &mut session, &[&device(2, manner)]);
    let message: MlsMessage = session.encrypt_application_message(&[7; 1024], Vec::new()).unwrap();
    let message = bytes(&message);
    criterion.bench_function("header of an application message", |bencher| {
        bencher.iter(|| Header::parse_application(black_box(&message)).unwrap());
    });
}

criterion_group!(
    name = mls;
    config = Criterion::default().with_measurement(CpuTime);
    targets = headers, commits
);
criterion_main!(mls);
