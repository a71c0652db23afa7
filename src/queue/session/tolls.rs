//! What a device pays for its frames: the same budgets as over REST.

use std::{future::pending, sync::Arc, time::Duration};

use super::{Goodbye, Session, Sockets};
use crate::{
    abuse::{Doors, Payer, Purse, Verb},
    domain::{DeviceNo, Drawn, Network, Timestamp},
    hot::Line,
    http::Problem,
    queue::{
        errand::Errand,
        frames::{ClientFrame, ServerFrame},
    },
};

/// The least time between two strikes that a socket earns by frames. Whoever sends ahead is refused many times before it can
/// read of the first, and did one thing wrong.
const STRIKE_EVERY: Duration = Duration::from_secs(1);

/// Out of what a socket's frames are paid.
pub(super) struct Tolls {
    network: Option<Network>,
    struck_at: Option<Timestamp>,
    messages: Vec<Purse>,
    acks: Vec<Purse>,
    account: Vec<Purse>,
}

/// A frame whose place in a budget has to be asked for. Nothing more is read meanwhile, so that frames keep their order.
pub(super) struct Held {
    reference: Option<String>,
    frame: ClientFrame,
    verdict: Errand<Verdict>,
    /// Whether a refusal earns a strike.
    strikes: bool,
}

/// What becomes of a frame.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verdict {
    /// It is taken.
    Passed,
    /// There is no place before this time has gone.
    Refused(Duration),
    /// Nor is there one, and the network is shut out by now.
    Blocked,
}

impl Tolls {
    /// The purses of a device that calls from a network.
    pub(super) fn new(sockets: &Sockets, device: DeviceNo, network: Option<Network>) -> Self {
        let payers = [Some(Payer::Device(device)), network.map(Payer::Network)];
        let purses = |verb| -> Vec<Purse> {
            payers.into_iter().flatten().map(|payer| sockets.doors.paces.purse(verb, payer)).collect()
        };
        let (messages, acks, account) = (purses(Verb::Message), purses(Verb::Ack), purses(Verb::Account));
        Self { network, struck_at: None, messages, acks, account }
    }

    /// Where the socket comes from.
    pub(super) const fn network(&self) -> Option<Network> {
        self.network
    }

    fn may_strike(&self, now: Timestamp) -> bool {
        // A clock that was set back spares nobody.
        self.struck_at.is_none_or(|last| now < last || now.since(last) >= STRIKE_EVERY)
    }

    fn purses(&self, frame: &ClientFrame) -> &[Purse] {
        match frame {
            ClientFrame::Send(_) | ClientFrame::GroupSend(_) => &self.messages,
            ClientFrame::Ack(..) | ClientFrame::Read(_) | ClientFrame::Ping => &self.acks,
            ClientFrame::Auth(_) => &self.account,
        }
    }
}

/// Pays out of the purses one after the other; who cannot earns a strike for its network if it `strikes`.
async fn judge(
    sockets: Arc<Sockets>,
    unpaid: Vec<Purse>,
    network: Option<Network>,
    strikes: bool,
) -> Verdict {
    let Doors { paces, blocks, .. } = &sockets.doors;
    for purse in &unpaid {
        let Drawn::Empty(wait) = paces.spend(purse).await.drawn else { continue };
        let Some(network) = network else { return Verdict::Refused(wait) };
        if strikes {
            blocks.strike(network).await;
        }
        return if blocks.left(network).is_some() { Verdict::Blocked } else { Verdict::Refused(wait) };
    }
    Verdict::Passed
}

impl Held {
    /// Waits until it is known what becomes of the frame that is held, if one is.
    pub(super) async fn verdict(held: &mut Option<Self>) -> Verdict {
        match held {
            Some(held) => (&mut held.verdict).await,
            None => pending().await,
        }
    }
}

impl Session {
    /// Takes a frame as soon as it is paid for.
    pub(super) fn admit(
        &mut self,
        reference: Option<String>,
        frame: ClientFrame,
        line: &Line,
    ) -> Option<Goodbye> {
        let (purses, paces) = (self.tolls.purses(&frame), &self.sockets.doors.paces);
        let paid = purses.iter().take_while(|purse| paces.spend_here(purse)).count();
        let unpaid = purses[paid..].to_vec();
        if unpaid.is_empty() {
            return self.act(reference, frame, line);
        }
        let strikes = self.tolls.may_strike(self.sockets.queue.clock.now());
        let verdict = Errand::start(judge(Arc::clone(&self.sockets), unpaid, self.tolls.network, strikes));
        self.held = Some(Held { reference, frame, verdict, strikes });
        None
    }

    /// Does with the frame that was held what was found. A refusal is no bad frame: the device may send it again.
    pub(super) fn let_go(&mut self, verdict: Verdict, line: &Line) -> Option<Goodbye> {
        let Held { reference, frame, strikes, .. } = self.held.take()?;
        if strikes && !matches!(verdict, Verdict::Passed) {
            self.tolls.struck_at = Some(self.sockets.queue.clock.now());
        }
        match verdict {
            Verdict::Passed => self.act(reference, frame, line),
            Verdict::Refused(wait) => {
                let problem = Problem::rate_limited(wait, "this device sends too much; send it again later");
                self.write(&ServerFrame::error(reference, &problem));
                None
            }
            Verdict::Blocked => Some(Goodbye::Blocked),
        }
    }
}
