//! The MLS rules of the relay, tried with commits and proposals that mls-rs makes: every refusal with its accepted twin beside it.

mod capabilities;
mod commits;
mod device;
mod external;
mod founding;
mod group_info;
mod libraries;
mod parsers;
mod private;
mod proposals;
mod roster;
mod stored;
mod table;
mod welcome;
mod world;
