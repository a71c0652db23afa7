//! What processes use, read from /proc.

use std::{collections::HashMap, fs, time::Instant};

use sqlx::{Connection, PgConnection};

use crate::{Outcome, relay::Relay};

/// Microseconds of one tick in /proc: Linux shows `USER_HZ`, which is 100 on every platform of the relay.
const TICK: u64 = 10_000;

/// Backends of the relay's database, and the workers that serve the whole cluster.
const BACKENDS: &str =
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() OR datname IS NULL";

/// Reads what the relay, Postgres, the driver and the whole machine have used so far.
pub(crate) struct Meter {
    relay: u32,
    postgres: Option<PgConnection>,
}

/// A reading, in microseconds of CPU.
pub(crate) struct Reading {
    at: Instant,
    relay: u64,
    driver: u64,
    postgres: HashMap<i32, u64>,
    machine: u64,
}

/// What was used between two readings, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Used {
    pub(crate) wall: f64,
    pub(crate) relay: f64,
    pub(crate) driver: f64,
    /// Zero when Postgres' processes cannot be seen from here.
    pub(crate) postgres: f64,
    /// By everything else on the machine, kernel threads and Redis included.
    pub(crate) others: f64,
}

impl Used {
    pub(crate) fn add(&mut self, more: Self) {
        self.wall += more.wall;
        self.relay += more.relay;
        self.driver += more.driver;
        self.postgres += more.postgres;
        self.others += more.others;
    }
}

impl Meter {
    pub(crate) async fn new(relay: &Relay) -> Outcome<Self> {
        let postgres = match &relay.database {
            Some(database) => Some(PgConnection::connect(&database.url).await?),
            None => None,
        };
        Ok(Self { relay: relay.pid(), postgres })
    }

    pub(crate) async fn read(&mut self) -> Outcome<Reading> {
        let mut postgres = HashMap::new();
        if let Some(connection) = &mut self.postgres {
            let pids: Vec<i32> = sqlx::query_scalar(BACKENDS).fetch_all(connection).await?;
            for pid in pids {
                if is_postgres(pid) {
                    postgres.insert(pid, cpu(&pid.to_string()).unwrap_or_default());
                }
            }
        }
        Ok(Reading {
            at: Instant::now(),
            relay: cpu(&self.relay.to_string())?,
            driver: cpu("self")?,
            postgres,
            machine: machine()?,
        })
    }

    /// The relay's resident memory in kilobytes.
    pub(crate) fn resident_kb(&self) -> Outcome<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.relay))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }
}

/// Whether this process here is the one that the server speaks of, and not one of another machine or container.
fn is_postgres(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres")
}

fn cpu(process: &str) -> Outcome<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("a stat without a name")?;
    let mut times = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (times.next(), times.next()) else {
        return Err("a stat without times".into());
    };
    Ok((user + system) * TICK)
}

/// Busy time of all cores: user, nice, system, irq, softirq, steal.
fn machine() -> Outcome<u64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().and_then(|line| line.strip_prefix("cpu ")).ok_or("no cpu line")?;
    let fields: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    Ok([0, 1, 2, 5, 6, 7].iter().filter_map(|&at| fields.get(at)).sum::<u64>() * TICK)
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a run are far below 2^52")]
const fn float(micros: u64) -> f64 {
    micros as f64
}

impl Reading {
    /// What was used since an earlier reading.
    pub(crate) fn since(&self, before: &Self) -> Used {
        let postgres: u64 = self
            .postgres
            .iter()
            .map(|(pid, used)| used.saturating_sub(before.postgres.get(pid).copied().unwrap_or_default()))
            .sum();
        let (relay, driver) = (self.relay - before.relay, self.driver - before.driver);
        let machine = self.machine.saturating_sub(before.machine);
        Used {
            wall: self.at.duration_since(before.at).as_secs_f64() * 1e6,
            relay: float(relay),
            driver: float(driver),
            postgres: float(postgres),
            others: float(machine.saturating_sub(relay + driver + postgres)),
        }
    }
}
