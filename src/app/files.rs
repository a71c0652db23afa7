//! How many files the process may have open: every connection is one.

use std::{fmt, io, thread};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Config;

/// Open files of the process beside its connections and those that each worker and each connection to the store has: what
/// it listens on, logs to and is woken by, its own calls to Redis, to collectors and for keys.
const OF_THE_PROCESS: usize = 128;

/// Open files of a worker beside its connections: its poll, its wakers.
const OF_A_WORKER: usize = 8;

/// The system lets the process open too few files for the connections that it is to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooFewFiles {
    allowed: u64,
    connections: usize,
    beside: usize,
}

impl fmt::Display for TooFewFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { allowed, connections, beside } = *self;
        let needed = connections.saturating_add(beside);
        let fitting = usize::try_from(allowed).unwrap_or(usize::MAX).saturating_sub(beside);
        write!(
            f,
            "{allowed} files may be open, and MAX_CONNECTIONS={connections} needs {needed}, {beside} of them for the store, \
             Redis and files: raise the hard limit (LimitNOFILE, ulimits nofile, ulimit -Hn) to {needed}, or "
        )?;
        match fitting {
            0 => f.write_str("no connection can be relied on"),
            fitting => write!(f, "set MAX_CONNECTIONS to {fitting} at most"),
        }
    }
}

/// Lets this process open as many files as the system ever lets it: the soft limit is raised to the hard one.
///
/// # Errors
/// When the system refuses; the limit is what it was.
pub fn allow_open_files() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return Ok(());
    }
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Whether this process may open too few files for what the settings ask of it.
#[must_use]
pub fn too_few_files(config: &Config) -> Option<TooFewFiles> {
    let workers = match config.workers {
        0 => thread::available_parallelism().map_or(2, usize::from),
        workers => workers,
    };
    let store = usize::try_from(config.max_db_connections).unwrap_or(usize::MAX);
    let beside = store.saturating_add(OF_THE_PROCESS + workers * OF_A_WORKER);
    let short = TooFewFiles {
        allowed: getrlimit(Resource::Nofile).current?,
        connections: config.transport.max_connections,
        beside,
    };
    let needed = u64::try_from(short.connections.saturating_add(beside)).unwrap_or(u64::MAX);
    (short.allowed < needed).then_some(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_files_are_told_with_what_to_set() {
        let told = TooFewFiles { allowed: 4096, connections: 20_000, beside: 200 }.to_string();
        assert!(told.contains("4096 files") && told.contains("needs 20200"), "{told}");
        assert!(told.ends_with("to 20200, or set MAX_CONNECTIONS to 3896 at most"), "{told}");
        let told = TooFewFiles { allowed: 100, connections: 20_000, beside: 200 }.to_string();
        assert!(told.ends_with("no connection can be relied on"), "{told}");
    }
}
