//! # Restante
//!
//! *Poste restante*: mail held, sealed, until its owner calls for it. Restante is a zero-knowledge relay for Signal and
//! MLS clients. It stores and forwards sealed envelopes; it never holds a client's private key, never sees plaintext,
//! and forgets an envelope once it is delivered.
//!
//! ## What is promised
//!
//! 1. **Accepted means durable.** A 201 (or a `sent` frame) is given only after the store has committed. From then on
//!    every addressed device gets the envelope at least once, or it expires, whichever relay process, Redis or
//!    connection dies in between. (`online_only` answers 202 and promises nothing.)
//! 2. **Once.** A message id is stored once and remembered for 30 days from acceptance with a digest of the parsed send.
//!    A repeat is recognised before anything else is looked at, answers with the first result and changes nothing.
//! 3. **In order.** Every mailbox has a gap-free position in commit order, given under that mailbox's row lock; a socket
//!    shows positions in order and without a gap.
//! 4. **One commit per epoch.** Of two MLS commits for one epoch exactly one is accepted; the loser changes nothing and learns
//!    the current epoch. Epoch, entry, roster, state and Welcomes are one act.
//! 5. **Single-use keys are used once.** A one-time pre-key is handed out at most once, over all nodes and crashes, and
//!    one that was used is never accepted again.
//! 6. **Redis is disposable.** Whatever it loses, no accepted envelope is lost, or stays undelivered to a connected
//!    device for more than 5 s. Redis is never believed about what exists.
//! 7. **A device sees only its own mailbox.** Identity comes from the token, never from the path or body. What you may
//!    not see does not exist for you.
//! 8. **The relay is blind.** No plaintext, private key or decrypt code in the binary, the schema, the logs, the metrics.
//!    Logs, metrics and panics hold no id, address, token, key or body.
//! 9. **Bounded.** Every queue, channel, buffer, page and body has a limit, and full is a stated case.
//! 10. **Gone is gone.** Deactivating a device ends its tokens, sockets, keys and mailbox in one act. An acked, deleted
//!     or expired body is erased from the store at once and never served again from anywhere. A logout ends a login's
//!     tokens and socket on every node within a second, also while Redis is away.
//!
//! ## Words
//!
//! | word | meaning |
//! |---|---|
//! | user | a user id, claimed by its first registration for ever |
//! | device | what a user registers; named by `device_id`, addressed by Signal clients as `device_number` |
//! | login | a `session_id`: one access token and one refresh token at a time; a session, on the wire and in the store |
//! | session | elsewhere: a connected socket's owner loop |
//! | revocation | the end of a session or of an incarnation, read by every node twice a second |
//! | admission | the host application's word that a user may come, or come back |
//! | budget | how often something may still be done, drawn from place by place |
//! | incarnation | one registration of a device, `device_no`; never reused, everything hangs on it |
//! | bundle | the keys a sender needs to open a session with a device, one-time keys taken for it alone |
//! | envelope | a sealed body for one device and what kind of body it is |
//! | send | a message with its envelopes, accepted as a whole or refused |
//! | mailbox | the items that wait for a device, each at a position |
//! | item | a message, a Welcome, or a notice: a message was deleted for everyone, the devices changed, a group was joined |
//! | roster group | a group without MLS: who is in it is what its routes say |
//! | epoch | the state of a group between two commits (RFC 9420 §7.1), or between two changes of a roster |
//! | log | the entries of a group, one for all its devices, each at a position |
//! | window | the part of a log that a device may read; a device may write while it has one that has not ended |
//! | gate | the item in a device's mailbox that comes before any entry of a window |
//! | cursor | the last entry of a window that its device has acked |
//! | generation | how often a group was made anew under its id |
//! | head | the last position given in a mailbox |
//! | ack | a device's word that it keeps an item, which erases it, or entries of a log, which moves a cursor |
//! | seen | the last position a session has written |
//! | wake | the hint to a session that its mailbox has more |
//! | act | one atomic method of the store |
//! | lane | the queue in which sends, or acks, of messages or of groups, wait while a batch is committed |
//! | reconciler | the job that makes lost wakes irrelevant |
//!
//! ## Rooms
//!
//! | room | what is in it |
//! |---|---|
//! | [`domain`] | the words above as types that cannot hold a wrong value |
//! | [`store`] | the durable store: a trait of acts, and two engines, Postgres and SQLite |
//! | [`hot`] | what may be lost: wakes between nodes and the offline queue, in Redis or in process; the switchboard |
//! | [`keys`], [`messages`], [`groups`], [`queue`] | the features: rules in `mod.rs`, HTTP edge in `routes.rs` |
//! | `verify` | what both rooms of MLS rules can do of its cryptography: hash and verify, and nothing else |
//! | [`abuse`] | how often a device and a network may do what, and who is shut out |
//! | [`auth`] | who is calling; how devices prove themselves and stay logged in |
//! | [`net`] | connections: TLS, HTTP/1.1 and HTTP/2, their bounds in time and number |
//! | [`http`], [`wire`] | what the edges share: problems, bodies, the frame around a request; JSON atoms |
//! | [`app`] | the composition root: the one place that names engines |
//! | [`api`] | the one list of routes, and the OpenAPI document and the page made from it |
//! | [`jobs`] | the reconciler, the poll of revocations, expiry |
//! | [`config`], [`cli`], [`telemetry`], [`metrics`] | settings, the command line, logs and traces, figures |
//!
//! ## The way of one message
//!
//! The sender calls `POST /api/v1/messages/send/me`. `messages/routes.rs` learns the caller from the token and parses
//! the body; `messages/send.rs` checks shape, size, guard and expiry; [`store::Store::accept_envelopes`] puts the send
//! into the lane. While one batch is being committed the next one gathers. A batch is one transaction in two steps: the
//! engine locks the recipients' mailboxes, then reads with a fresh snapshot and asks `store/decide.rs`, which is pure,
//! what becomes of each send; the rows are written in one statement, and 201 goes out after the commit.
//!
//! The engine hands what it committed to [`hot::Switchboard::carry`], in commit order: an item goes straight to a
//! session of this process, or as an event to the node that is subscribed for the device, or into its offline queue.
//! All of that may fail. A session pushes an item only if it is the next position, else it reads the store; and every
//! 2 s the reconciler compares the heads of connected devices' mailboxes with what their sessions have written.
//!
//! The receiver opens `/ws/me/me`: subscribe first, then page, then `queue_drained`, then live. It acks, and the rows
//! are gone.

// Test clients of the integration tests, of which the fuzzers' seeds are made, name the crate.
#[cfg(test)]
extern crate self as restante;

pub mod abuse;
pub mod api;
pub mod app;
pub mod auth;
pub mod cli;
pub mod config;
pub mod domain;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzed;
pub mod groups;
pub mod hot;
pub mod http;
pub mod jobs;
pub mod keys;
pub mod messages;
pub mod metrics;
pub mod net;
pub mod queue;
mod shares;
pub mod store;
pub mod telemetry;
mod verify;
pub mod wire;
