//! A cluster: one link for each node, and each command sent to the node that has its key.
//!
//! The driver has a connection to clusters, which this is instead of: proto-docs/decisions/0012 says why.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures_util::future::{join_all, select_ok};
use redis::{Cmd, ErrorKind, Pipeline, RedisResult, ServerErrorKind, Value};
use tokio::time::{Instant, timeout};

use super::{
    fault::{Fault, jittered},
    link::{DEADLINE, Link, REST},
    place::{Node, Seeds},
    slots::{Slots, slot},
};

/// How many nodes are asked at once which node has which slot.
const ASKED_AT_ONCE: usize = 5;

/// How many nodes are tried for what any node could do.
const TRIED: usize = 4;

/// Carries pipelines to the nodes of a cluster. A node that fails is left alone for a while, and the others are not.
pub(super) struct Cluster {
    seeds: Seeds,
    /// At whose owner publishers and subscribers meet, as long as it is there.
    meeting_slot: u16,
    state: Mutex<State>,
    /// Held by who asks for the slots; when they may be asked for again.
    asking: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct State {
    links: HashMap<Node, Arc<Link>>,
    slots: Option<Arc<Slots>>,
    closed: bool,
}

/// What one node is to do: the places of its commands in a pipeline.
struct Share {
    node: Node,
    places: Vec<usize>,
    /// Whether the node is only about to get the keys, and must be told that this is known.
    asking: bool,
}

type Answers = Vec<Result<Value, Fault>>;

impl Cluster {
    pub(super) fn new(seeds: Seeds, meeting_slot: u16) -> Self {
        Self { seeds, meeting_slot, state: Mutex::default(), asking: tokio::sync::Mutex::new(None) }
    }

    /// Runs commands that each name one key, in one pipeline for each node. Commands of one key keep their order.
    pub(super) async fn run(&self, pipeline: &Pipeline) -> Result<Answers, Fault> {
        let commands: Vec<_> = pipeline.cmd_iter().collect();
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let slots = self.slots().await?;
        let mut answers: Answers = commands.iter().map(|_| Err(Fault::NoOwner)).collect();
        self.carry(&commands, shares_by_owner(&commands, &slots), &mut answers).await;
        if answers.iter().any(hints_at_change) {
            let redirected = redirected(&answers, &commands, &slots);
            self.carry(&commands, redirected, &mut answers).await;
            self.ask_anew().await;
        }
        Ok(answers)
    }

    /// Runs commands that any node may take: all at the same one, which is the meeting place while it is there.
    pub(super) async fn run_anywhere(&self, pipeline: &mut Pipeline) -> Result<Answers, Fault> {
        let slots = self.slots().await?;
        let mut outcome = Err(Fault::NoOwner);
        for node in slots.owners_from(self.meeting_slot).take(TRIED) {
            outcome = self.link(node)?.run(pipeline).await;
            if !outcome.as_ref().is_err_and(Fault::is_unsent) {
                break;
            }
        }
        let answers = outcome.map(|answers| answers.into_iter().map(|it| Ok(it?)).collect::<Answers>());
        if answers.as_ref().map_or(true, |answers| answers.iter().any(hints_at_change)) {
            self.ask_anew().await;
        }
        answers
    }

    /// Asks every master whether it is reachable.
    pub(super) async fn check(&self) -> Result<(), Fault> {
        let slots = self.slots().await?;
        let asked = slots.owners().iter().map(async |node| self.link(node)?.check().await);
        let outcome: Result<(), Fault> = join_all(asked).await.into_iter().collect();
        if outcome.is_err() {
            self.ask_anew().await;
        }
        outcome
    }

    /// The nodes to listen at, the best first.
    pub(super) async fn posts(&self) -> Result<Vec<Node>, Fault> {
        let slots = self.slots().await?;
        Ok(slots.owners_from(self.meeting_slot).take(TRIED).cloned().collect())
    }

    /// Whether there is a better node to listen at than this one: the meeting place, if it answers.
    pub(super) async fn has_better_post(&self, node: &Node) -> bool {
        self.ask_anew().await;
        let Some(slots) = self.known_slots() else { return false };
        let Some(best) = slots.owners_from(self.meeting_slot).next().filter(|best| *best != node) else {
            return false;
        };
        let Ok(link) = self.link(best) else { return false };
        link.check().await.is_ok()
    }

    /// A client for a node.
    pub(super) fn client(&self, node: &Node) -> Result<redis::Client, Fault> {
        self.seeds.client(node).map_err(Fault::Url)
    }

    /// Fails every act from now on, and lets the connections go.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        for link in state.links.drain() {
            link.1.close();
        }
    }

    /// Has each node do its share, and puts the answers in their places.
    async fn carry(&self, commands: &[&Cmd], shares: Vec<Share>, answers: &mut Answers) {
        let done = join_all(shares.into_iter().map(async |share| {
            let outcome = self.fulfil(commands, &share).await;
            (share, outcome)
        }));
        for (share, outcome) in done.await {
            match outcome {
                Ok(told) => {
                    for (place, answer) in share.places.into_iter().zip(told) {
                        answers[place] = answer.map_err(Fault::from);
                    }
                }
                Err(fault) => {
                    let mut fault = Some(fault);
                    for place in share.places {
                        // The first command tells why; the others share its fate.
                        answers[place] = Err(fault.take().unwrap_or(Fault::Resting));
                    }
                }
            }
        }
    }

    async fn fulfil(&self, commands: &[&Cmd], share: &Share) -> Result<Vec<RedisResult<Value>>, Fault> {
        let link = self.link(&share.node)?;
        let mut pipeline = Pipeline::with_capacity(share.places.len());
        for place in &share.places {
            if share.asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(commands[*place].clone());
        }
        let answers = link.run(&mut pipeline).await?;
        let steps = if share.asking { 2 } else { 1 };
        Ok(answers.into_iter().skip(steps - 1).step_by(steps).collect())
    }

    /// The slots, asked for when they were never told.
    async fn slots(&self) -> Result<Arc<Slots>, Fault> {
        if let Some(slots) = self.known_slots() {
            return Ok(slots);
        }
        let mut rest = self.asking.lock().await;
        if let Some(slots) = self.known_slots() {
            return Ok(slots);
        }
        if rest.is_some_and(|until| Instant::now() < until) {
            return Err(Fault::Resting);
        }
        self.ask(&mut rest).await
    }

    /// Asks for the slots again, unless that was done a moment ago or is being done.
    async fn ask_anew(&self) {
        let Ok(mut rest) = self.asking.try_lock() else { return };
        if rest.is_some_and(|until| Instant::now() < until) {
            return;
        }
        if let Err(fault) = self.ask(&mut rest).await {
            tracing::debug!(reason = fault.reason(), "no node told which node has which slot");
        }
    }

    /// Takes the first answer of several nodes, and lets the links to nodes go that are not in it.
    async fn ask(&self, rest: &mut Option<Instant>) -> Result<Arc<Slots>, Fault> {
        let questions: Vec<_> =
            self.tellers().into_iter().map(|node| Box::pin(self.ask_node(node))).collect();
        let outcome = match timeout(DEADLINE, select_ok(questions)).await {
            Ok(Ok((slots, _))) => self.learn(slots),
            Ok(Err(fault)) => Err(fault),
            Err(_) => Err(Fault::Deadline),
        };
        *rest = Some(Instant::now() + jittered(REST));
        outcome
    }

    async fn ask_node(&self, node: Node) -> Result<Slots, Fault> {
        let mut question = Pipeline::with_capacity(1);
        question.cmd("CLUSTER").arg("SLOTS");
        let answer = self.link(&node)?.run(&mut question).await?.pop().ok_or(Fault::NoAnswer)??;
        Slots::read(&answer, &node).ok_or(Fault::NoSlots)
    }

    /// Some of the nodes that are known, others at other times.
    fn tellers(&self) -> Vec<Node> {
        let slots = self.known_slots();
        let owners = slots.iter().flat_map(|slots| slots.owners());
        let mut nodes: Vec<_> = owners.chain(&self.seeds.nodes).cloned().collect();
        nodes.sort_unstable();
        nodes.dedup();
        // Without randomness the same ones are asked.
        let turn = getrandom::u32().map_or(0, |random| random as usize % nodes.len());
        nodes.rotate_left(turn);
        nodes.truncate(ASKED_AT_ONCE);
        nodes
    }

    fn learn(&self, slots: Slots) -> Result<Arc<Slots>, Fault> {
        let slots = Arc::new(slots);
        let mut state = self.state();
        if state.closed {
            return Err(Fault::Closed);
        }
        state.links.retain(|node, _| slots.owners().contains(node) || self.seeds.nodes.contains(node));
        state.slots = Some(Arc::clone(&slots));
        Ok(slots)
    }

    fn known_slots(&self) -> Option<Arc<Slots>> {
        self.state().slots.clone()
    }

    fn link(&self, node: &Node) -> Result<Arc<Link>, Fault> {
        let mut state = self.state();
        if state.closed {
            return Err(Fault::Closed);
        }
        if let Some(link) = state.links.get(node) {
            return Ok(Arc::clone(link));
        }
        let link = Arc::new(Link::new(self.client(node)?));
        state.links.insert(node.clone(), Arc::clone(&link));
        Ok(link)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Shares that are being gathered.
#[derive(Default)]
struct Shares(Vec<Share>);

impl Shares {
    fn add(&mut self, node: Node, asking: bool, place: usize) {
        match self.0.iter_mut().find(|share| share.asking == asking && share.node == node) {
            Some(share) => share.places.push(place),
            None => self.0.push(Share { node, places: vec![place], asking }),
        }
    }
}

fn shares_by_owner(commands: &[&Cmd], slots: &Slots) -> Vec<Share> {
    let mut shares = Shares::default();
    for (place, command) in commands.iter().enumerate() {
        if let Some(owner) = slots.owner(slot(key(command))) {
            shares.add(owner.clone(), false, place);
        }
    }
    shares.0
}

/// What the nodes said must be asked of others; they have done nothing of it.
fn redirected(answers: &Answers, commands: &[&Cmd], slots: &Slots) -> Vec<Share> {
    let mut shares = Shares::default();
    for (place, answer) in answers.iter().enumerate() {
        let Err(Fault::Redis(error)) = answer else { continue };
        let Some((address, _)) = error.redirect_node() else { continue };
        let asking = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
        let teller = slots.owner(slot(key(commands[place])));
        if let Some(node) = teller.and_then(|teller| Node::told(address, teller)) {
            shares.add(node, asking, place);
        }
    }
    shares.0
}

/// The one key that a command names: its first argument, but for scripts, where the script and the number of keys come
/// before it.
fn key(command: &Cmd) -> &[u8] {
    let mut arguments = command.args_iter().map(|argument| match argument {
        redis::Arg::Simple(bytes) => bytes,
        _ => &[],
    });
    let before = if arguments.next().is_some_and(|name| name.starts_with(b"EVAL")) { 2 } else { 0 };
    arguments.nth(before).unwrap_or_default()
}

fn hints_at_change(answer: &Result<Value, Fault>) -> bool {
    answer.as_ref().is_err_and(Fault::hints_at_change)
}
