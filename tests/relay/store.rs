//! The conformance suite of the `store` seam: what the doc comments of [`restante::store::Store`] promise, tried on
//! both engines. Postgres runs when `RESTANTE_TEST_DATABASE_URL` is set.

mod accept;
mod audit;
mod claims;
mod deactivate;
mod devices;
mod differ;
mod expiry;
mod fetching;
mod folder;
mod full;
mod history;
mod keys;
mod mailbox;
mod model;
mod notice_storms;
mod notices;
mod once;
mod order;
mod recovery_keys;
mod refresh;
mod restore;
mod revival;
mod sessions;
