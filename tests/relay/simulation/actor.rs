//! A device that plays its part of a script: one loop that sends, reads, acks and moves, and notes what it sees.

mod ending;
mod live;
mod rest;

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use live::Open;
use serde_json::Value;
use uuid::Uuid;

use super::{
    ledger::{Ledger, Moment, Sequences},
    script::Act,
    world::World,
};
use crate::support::client::Device;

/// How long one answer is waited for before the request is made again.
const ANSWER: Duration = Duration::from_millis(2500);

/// How long a request is made again before the relay counts as broken.
const PATIENCE: Duration = Duration::from_secs(45);

/// What was done in all histories.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) histories: AtomicUsize,
    pub(super) accepted: AtomicUsize,
    pub(super) copies: AtomicUsize,
    pub(super) repeats: AtomicUsize,
    pub(super) faults: AtomicUsize,
    pub(super) reconnects: AtomicUsize,
}

pub(super) struct Actor {
    pub(super) world: Arc<World>,
    pub(super) ledger: Arc<Ledger>,
    pub(super) tally: Arc<Tally>,
    pub(super) index: usize,
    pub(super) device: Device,
    http: reqwest::Client,
    node: usize,
    open: Option<Open>,
    /// Read, and not yet acked for certain.
    unacked: Vec<Uuid>,
}

impl Actor {
    pub(super) fn new(
        world: Arc<World>,
        ledger: Arc<Ledger>,
        tally: Arc<Tally>,
        index: usize,
        device: Device,
    ) -> Self {
        let http = reqwest::Client::builder().timeout(ANSWER).build().unwrap();
        Self { world, ledger, tally, index, device, http, node: index, open: None, unacked: Vec::new() }
    }

    pub(super) async fn perform(&mut self, act: &Act) {
        match *act {
            Act::Send { to, life } => {
                let (id, body) = self.ledger.begin(self.index, to, life, None, self.world.times().0);
                self.settle(id, &body).await;
            }
            Act::Burst { to, count } => self.burst(to, count).await,
            Act::Hurried { to } => self.hurry(to).await,
            Act::Repeat { which, altered } => self.repeat(which, altered).await,
            Act::Delete { which } => self.delete(which).await,
            Act::Listen { millis } => self.listen(Duration::from_millis(millis)).await,
            Act::Ack { most, confirmed } => self.ack(most, confirmed).await,
            Act::Page { limit } => drop(self.read_pages(limit).await),
            Act::Move { node } => self.move_to(node).await,
            Act::Leave => self.open = None,
        }
    }

    fn take(&mut self, item: &Value, since: Moment, order: &mut Sequences) {
        self.ledger.received(self.index, item, since, order);
        let id: Uuid = serde_json::from_value(item["message_id"].clone()).unwrap();
        if !self.unacked.contains(&id) {
            self.unacked.push(id);
        }
    }
}
