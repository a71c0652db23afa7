//! What a device asks for over its socket.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use super::{Goodbye, Session};
use crate::{
    domain::{GroupId, MessageId, Position},
    groups::{GroupSendFrame, GroupSendRequest, GroupSentAnswer},
    hot::Line,
    http::Problem,
    messages::{SendBody, SendFrame, SendRequest, SentAnswer},
    queue::{
        acks::TooMany,
        errand::Errand,
        frames::{ClientFrame, Sent, ServerFrame, read},
    },
    store::{Mark, StoreError},
};

/// Bad frames within a minute that a socket survives.
const BAD_FRAMES: usize = 9;

impl Session {
    /// Takes a frame: its answer comes when it is ready.
    pub(super) fn frame(&mut self, bytes: &Bytes, line: &Line) -> Option<Goodbye> {
        match read(self.format, bytes) {
            (reference, Ok(frame)) => self.admit(reference, frame, line),
            (reference, Err(problem)) => self.refuse(reference, &problem),
        }
    }

    /// Does what a frame asks for.
    pub(super) fn act(
        &mut self,
        reference: Option<String>,
        frame: ClientFrame,
        line: &Line,
    ) -> Option<Goodbye> {
        let refused = match frame {
            ClientFrame::Ping => {
                self.write(&ServerFrame::Pong { reference });
                return None;
            }
            ClientFrame::Ack(ids, entries) => {
                self.ack(reference, &ids, &entries);
                return None;
            }
            ClientFrame::Read(message_id) => {
                self.mark_read(reference, message_id);
                return None;
            }
            ClientFrame::Send(frame) => self.send(reference.clone(), *frame),
            ClientFrame::GroupSend(frame) => self.group_send(reference.clone(), *frame),
            ClientFrame::Auth(token) => self.renew(reference.as_deref(), &token, line),
        };
        refused.err().and_then(|problem| self.refuse(reference, &problem))
    }

    /// Answers a frame that could not be taken; too many of them end the session.
    pub(super) fn refuse(&mut self, reference: Option<String>, problem: &Problem) -> Option<Goodbye> {
        self.write(&ServerFrame::error(reference, problem));
        let now = Instant::now();
        self.bad_frames.retain(|at| now.duration_since(*at) < Duration::from_mins(1));
        self.bad_frames.push_back(now);
        (self.bad_frames.len() > BAD_FRAMES).then_some(Goodbye::ProtocolError)
    }

    fn send(&self, reference: Option<String>, frame: SendFrame) -> Result<(), Problem> {
        self.is_own(frame.device_id.as_deref())?;
        let request = SendRequest::try_from(SendBody::from(frame))?;
        // The send takes its place here, so that a socket's sends keep their order.
        let is_stored = !request.online_only;
        let sent = self.sockets.messages.send(self.caller.clone(), request);
        let answer = async move {
            Some(match sent.await {
                Ok(sent) => ServerFrame::Sent { reference, answer: Sent::Message(SentAnswer::from(sent)) },
                Err(refusal) => ServerFrame::error(reference, &refusal.into()),
            })
        };
        // What waits for a lane alone holds nothing meanwhile, and comes in the order of the sends.
        self.answers.push(if is_stored { Box::pin(answer) } else { Box::pin(Errand::start(answer)) });
        Ok(())
    }

    fn group_send(&self, reference: Option<String>, frame: GroupSendFrame) -> Result<(), Problem> {
        self.is_own(frame.device_id.as_deref())?;
        let request = GroupSendRequest::try_from(frame)?;
        // It takes its place here, like a send.
        let sent = self.sockets.groups.send(self.caller.clone(), request);
        self.answers.push(Box::pin(async move {
            Some(match sent.await {
                Ok(sent) => ServerFrame::Sent { reference, answer: Sent::Group(GroupSentAnswer::from(sent)) },
                Err(refusal) => ServerFrame::error(reference, &refusal.into()),
            })
        }));
        Ok(())
    }

    /// Refuses what another device would send.
    fn is_own(&self, device_id: Option<&str>) -> Result<(), Problem> {
        if device_id.is_some_and(|id| id != "me" && id != self.caller.device_id.as_str()) {
            return Err(Problem::new(403, "not-you", "the socket belongs to another device"));
        }
        Ok(())
    }

    fn ack(&mut self, reference: Option<String>, ids: &[MessageId], entries: &[(GroupId, Position)]) {
        if let Err(TooMany) = self.acks.add(entries) {
            let detail = "acks of too many groups wait to be stored";
            let problem = Problem::too_many("too-many-acks", detail, 1);
            return self.write(&ServerFrame::error(reference, &problem));
        }
        for (group, position) in entries {
            self.logs.ack(*group, *position);
        }
        // Without a `ref` nobody waits for what is stored within a second.
        let is_awaited = reference.is_some() && !entries.is_empty();
        let stored = is_awaited.then(|| self.acks.when_stored());
        let (queue, device) = (Arc::clone(&self.sockets.queue), self.caller.device_no);
        let (mut positions, mut waited, mut others) = (Vec::new(), Vec::new(), Vec::new());
        for id in ids {
            match self.in_flight.remove(id) {
                Some(written) => {
                    positions.push(written.position);
                    waited.extend(Some(written.position).filter(|_| written.waited));
                }
                None => others.push(*id),
            }
        }
        let erased = (!positions.is_empty()).then(|| queue.ack(device, positions, waited));
        let queue = Arc::clone(&self.sockets.queue);
        let asks_store = !others.is_empty();
        let answer = async move {
            let mut done = Ok(0);
            if let Some(erased) = erased {
                done = erased.await;
            }
            if done.is_ok() && !others.is_empty() {
                done = queue.ack_ids(device, &others).await;
            }
            if let Some(stored) = stored.filter(|_| done.is_ok())
                && !stored.await.unwrap_or(false)
            {
                done = Err(StoreError::Unavailable("the acks could not be stored".into()));
            }
            match done {
                Ok(_) => reference.map(|reference| ServerFrame::Acked { reference }),
                Err(error) => Some(ServerFrame::error(reference, &error.into())),
            }
        };
        self.answers.push(if asks_store { Box::pin(Errand::start(answer)) } else { Box::pin(answer) });
    }

    fn mark_read(&self, reference: Option<String>, message_id: MessageId) {
        let (messages, caller) = (Arc::clone(&self.sockets.messages), self.caller.clone());
        self.answers.push(Box::pin(Errand::start(async move {
            match messages.mark(&caller, message_id, Mark::Read).await {
                Ok(_) => reference.map(|reference| ServerFrame::Acked { reference }),
                Err(refusal) => Some(ServerFrame::error(reference, &refusal.into())),
            }
        })));
    }

    /// Goes on with a fresh token of the same device.
    fn renew(&mut self, reference: Option<&str>, token: &str, line: &Line) -> Result<(), Problem> {
        let claims = self.sockets.authority.claims(token)?;
        if claims.caller.device_no != self.caller.device_no {
            return Err(Problem::new(403, "not-you", "the token belongs to another device"));
        }
        if self.login.is_some() {
            self.login = Some((claims.session, claims.expires_at));
            line.live_by(claims.session);
        }
        if let Some(reference) = reference {
            self.write(&ServerFrame::Acked { reference: reference.to_owned() });
        }
        Ok(())
    }
}
