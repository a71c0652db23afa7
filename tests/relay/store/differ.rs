//! Random acts on devices, keys and sessions, done on both engines: they answer alike, and tell the same afterwards.
//! (Mail is compared with a model, see `model.rs`.)

use std::{fmt::Debug, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use restante::{
    domain::{Caller, DeviceNo, IdentityKey, SessionId, SignedPreKey, Timestamp, UserId},
    store::{
        KeyUpload, LoggedIn, Login, OneTimeKeys, Registered, Registration, Revival, Rotated, Rotation,
        SingleUse, Store,
    },
};

use crate::support::{
    engine::{self, Engine, NOON},
    mothers, postgres,
};

const STEPS: usize = 90;

const DEVICES: [&str; 4] = ["phone", "tablet", "laptop", "desk"];

/// A session that was opened, and every refresh token that was given for it.
struct Opened {
    session: SessionId,
    device: DeviceNo,
    tokens: Vec<[u8; 32]>,
}

/// Both engines, and what came before, from which later acts choose.
struct Pair {
    engines: [Engine; 2],
    random: StdRng,
    now: Timestamp,
    users: [UserId; 2],
    identities: [IdentityKey; 3],
    callers: Vec<Caller>,
    opened: Vec<Opened>,
    once: Vec<SingleUse>,
    signed: Vec<SignedPreKey>,
}

impl Pair {
    fn of(engines: [Engine; 2], seed: u64) -> Self {
        Self {
            engines,
            random: StdRng::seed_from_u64(seed),
            now: NOON,
            users: [mothers::user(), mothers::user()],
            identities: [(); 3].map(|()| IdentityKey::Signal(mothers::bytes())),
            callers: Vec::new(),
            opened: Vec::new(),
            once: Vec::new(),
            signed: Vec::new(),
        }
    }

    /// Does the same on both engines, which must answer alike.
    async fn both<T: PartialEq + Debug>(&self, act: impl AsyncFn(Arc<dyn Store>) -> T) -> T {
        let [embedded, production] = &self.engines;
        let answer = act(Arc::clone(&embedded.store)).await;
        assert_eq!(answer, act(Arc::clone(&production.store)).await, "sqlite first, then postgres");
        answer
    }

    fn one_in(&mut self, number: u32) -> bool {
        self.random.random_ratio(1, number)
    }

    fn caller(&mut self) -> Option<Caller> {
        self.callers.choose(&mut self.random).cloned()
    }

    /// Something that works once; now and then one that came before.
    fn single_use(&mut self) -> SingleUse {
        let again = if self.one_in(3) { self.once.choose(&mut self.random).copied() } else { None };
        let token = again.unwrap_or_else(|| mothers::single_use(self.now));
        self.once.push(token);
        token
    }

    /// A signed pre-key; now and then one that came before.
    fn signed_prekey(&mut self) -> SignedPreKey {
        let again = if self.one_in(4) { self.signed.choose(&mut self.random).cloned() } else { None };
        let key = again.unwrap_or_else(|| mothers::signed(self.random.random_range(1..6)));
        self.signed.push(key.clone());
        key
    }

    fn revival(&mut self) -> Option<Revival> {
        match self.random.random_range(0..3) {
            0 => None,
            1 => self.identities.choose(&mut self.random).copied().map(Revival::Recovered),
            _ => Some(Revival::Admitted(self.single_use())),
        }
    }

    async fn step(&mut self) {
        let pause = if self.one_in(30) { 90_000 } else { self.random.random_range(1..5) };
        self.now = self.now.plus(Duration::from_secs(pause));
        match self.random.random_range(0..10) {
            0..3 => self.register().await,
            3 => self.deactivate().await,
            4 | 5 => self.log_in().await,
            6 => self.refresh().await,
            7 => self.log_out().await,
            8 => self.publish().await,
            _ => {
                let now = self.now;
                let forgotten = async |store: Arc<dyn Store>| store.expire(now, 500).await.unwrap().forgotten;
                self.both(forgotten).await;
            }
        }
        self.look().await;
    }

    async fn register(&mut self) {
        let now = self.now;
        let user = self.users[self.random.random_range(0..2)];
        let device = DEVICES[self.random.random_range(0..4)];
        let mut registration = Registration {
            identity_key: self.identities[self.random.random_range(0..3)],
            signed_prekey: self.signed_prekey(),
            may_claim: !self.one_in(4),
            revival: self.revival(),
            session: mothers::session(now),
            ..mothers::registration(user, device)
        };
        let own: Vec<Caller> = self.callers.iter().filter(|by| by.user_id == user).cloned().collect();
        if let Some(by) = own.choose(&mut self.random) {
            let linked = mothers::allowed_by(by, registration, now);
            registration = linked.registration;
            let offer =
                async |store: Arc<dyn Store>| store.offer_link(linked.offer.clone(), now).await.unwrap();
            self.both(offer).await;
        }
        let register =
            async |store: Arc<dyn Store>| store.register_device(registration.clone(), now).await.unwrap();
        if let Registered::Registered(principal) = self.both(register).await {
            let (session, tokens) =
                (registration.session.session_id, vec![registration.session.refresh_hash]);
            self.opened.push(Opened { session, device: principal.caller.device_no, tokens });
            self.callers.push(principal.caller);
        }
    }

    async fn deactivate(&mut self) {
        let Some(by) = self.caller() else { return };
        let target = mothers::device_id(DEVICES[self.random.random_range(0..4)]);
        let now = self.now;
        self.both(async |store| store.deactivate(&by, &target, now).await.unwrap()).await;
    }

    async fn log_in(&mut self) {
        let Some(device) = self.caller() else { return };
        let now = self.now;
        let login = Login { challenge: self.single_use(), ..mothers::login(&device, now) };
        let answer = self.both(async |store| store.open_session(login.clone(), now).await.unwrap()).await;
        if let LoggedIn::LoggedIn(_) = answer {
            let (session, tokens) = (login.session.session_id, vec![login.session.refresh_hash]);
            self.opened.push(Opened { session, device: device.device_no, tokens });
        }
    }

    /// With the newest refresh token, or the one before.
    async fn refresh(&mut self) {
        if self.opened.is_empty() {
            return;
        }
        let index = self.random.random_range(0..self.opened.len());
        let back = usize::from(self.one_in(2));
        let Opened { session, tokens, .. } = &self.opened[index];
        let presented = tokens[tokens.len().saturating_sub(1 + back)];
        let (now, next) = (self.now, *blake3::hash(&presented).as_bytes());
        let rotation = Rotation { next, ..mothers::rotation(*session, presented, now) };
        let answer =
            self.both(async |store| store.rotate_session(rotation.clone(), now).await.unwrap()).await;
        let tokens = &mut self.opened[index].tokens;
        if matches!(answer, Rotated::Rotated { .. }) && !tokens.contains(&next) {
            tokens.push(next);
        }
    }

    async fn log_out(&mut self) {
        let Some(Opened { session, device, .. }) = self.opened.choose(&mut self.random) else { return };
        let (session, device, now) = (*session, *device, self.now);
        self.both(async |store| store.end_session(device, session, now).await.unwrap()).await;
    }

    async fn publish(&mut self) {
        let Some(device) = self.caller() else { return };
        let first = self.random.random_range(4..20);
        let upload = KeyUpload {
            signed_prekey: if self.one_in(2) { Some(self.signed_prekey()) } else { None },
            onetime_prekeys: (first..first + self.random.random_range(0..4)).map(mothers::onetime).collect(),
            kem_prekeys: if self.one_in(3) { vec![mothers::kem(first)] } else { Vec::new() },
            last_resort_kem_prekey: self.one_in(3).then(|| mothers::kem(100 + first % 3)),
        };
        let now = self.now;
        self.both(async |store| store.publish_keys(device.device_no, upload.clone(), now).await.unwrap())
            .await;
        let onetime = if self.one_in(2) { OneTimeKeys::Given } else { OneTimeKeys::Withheld };
        let user = device.user_id;
        let taken = async |store: Arc<dyn Store>| {
            let bundles = store.take_bundles(user, None, onetime).await.unwrap();
            bundles.into_iter().flatten().map(|taken| format!("{taken:?}")).collect::<Vec<_>>()
        };
        self.both(taken).await;
    }

    /// What both tell of everybody.
    async fn look(&self) {
        let now = self.now;
        for user in self.users {
            self.both(async |store| format!("{:?}", store.devices(user).await.unwrap())).await;
            let keys = async |store: Arc<dyn Store>| {
                let keys = store.recovery_keys(user).await.unwrap();
                keys.iter().map(|key| key.as_bytes().to_vec()).collect::<Vec<_>>()
            };
            self.both(keys).await;
            self.both(async |store| store.sessions(user, now).await.unwrap()).await;
            let trail = async |store: Arc<dyn Store>| {
                let entries = store.audit(user, None, 20).await.unwrap().into_iter();
                entries.map(|it| (it.event, it.device_number, it.by, it.at)).collect::<Vec<_>>()
            };
            self.both(trail).await;
        }
        let since = now.minus(Duration::from_mins(30));
        self.both(async |store| store.revocations(since).await.unwrap()).await;
        let devices: Vec<DeviceNo> = self.callers.iter().map(|caller| caller.device_no).collect();
        self.both(async |store| store.mailbox_heads(&devices).await.unwrap()).await;
        for &device in devices.iter().rev().take(3) {
            self.both(async |store| {
                format!("{:?}", store.key_stats(device, crate::support::engine::NOON).await.unwrap())
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_engines_answer_random_acts_alike() {
    for seed in 1..=2 {
        let Some((production, database)) = postgres::make(engine::roomy()).await else { return };
        let mut pair = Pair::of([engine::sqlite(engine::roomy()).await, production], seed);
        let mut step = 0;
        let acts = async {
            while step < STEPS {
                pair.step().await;
                step += 1;
            }
        };
        let done = AssertUnwindSafe(acts).catch_unwind().await;
        database.drop().await;
        assert!(done.is_ok(), "seed {seed}, step {step}: see above");
    }
}
