//! The HTTP edge that every feature shares: problems, bodies, the frame around each request.

mod address;
mod body;
mod frame;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzed;
mod guard;
mod heads;
mod ledger;
mod limits;
pub mod metrics;
mod policy;
mod problem;
mod query;
pub mod service;
mod unread;

pub use address::CallerAddress;
pub use body::{Body, BodyKind, OptionalBody, RequestBody, read_json};
pub use frame::{KnownPaths, frame, unknown_path};
pub use guard::{Recognise, guard, pay_to_open};
pub use heads::check_origin;
pub use limits::{Act, AddressBudgets};
pub use policy::Policy;
pub use problem::Problem;
pub use query::Query;
pub use unread::{Allowance, Unread, hold};
