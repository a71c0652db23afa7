//! One integration binary: the promises of the relay, tried over both engines of each seam.

mod documents;
mod hot;
mod store;
mod support;
