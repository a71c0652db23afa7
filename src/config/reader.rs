//! Reads settings one by one, and remembers which there are and what is wrong with them.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};

use super::{Known, MasterSecret};
use crate::domain::CipherSuite;

/// Reads settings, remembers which there are and what is wrong with them.
pub(super) struct Reader {
    pub(super) vars: BTreeMap<String, String>,
    pub(super) known: Vec<Known>,
    pub(super) faults: Vec<String>,
}

impl Reader {
    /// The trimmed value of a setting; an empty one counts as absent.
    fn value(&mut self, name: &'static str, default: impl Into<String>) -> Option<String> {
        self.known.push(Known { name, default: default.into() });
        self.vars.get(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    pub(super) fn text(&mut self, name: &'static str, default: &str) -> String {
        self.value(name, default).unwrap_or_else(|| default.to_owned())
    }

    pub(super) fn parsed<T: FromStr + fmt::Display>(
        &mut self,
        name: &'static str,
        default: T,
        kind: &str,
    ) -> T {
        let Some(value) = self.value(name, default.to_string()) else { return default };
        value.parse().unwrap_or_else(|_| {
            self.faults.push(format!("{name} must be {kind}"));
            default
        })
    }

    pub(super) fn number<T>(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> T
    where
        T: TryFrom<u64> + Default,
    {
        let value = self.value(name, default.to_string());
        let number = match value.map(|value| value.parse::<u64>()) {
            None => default,
            Some(Ok(number)) if range.contains(&number) => number,
            Some(_) => {
                self.faults.push(format!(
                    "{name} must be a whole number from {} to {}",
                    range.start(),
                    range.end()
                ));
                default
            }
        };
        T::try_from(number).unwrap_or_default()
    }

    /// A number with two names, of which one is used, or both say the same.
    pub(super) fn number_by_either(
        &mut self,
        name: &'static str,
        other_name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> usize {
        let is_named = self.vars.get(name).is_some_and(|value| !value.trim().is_empty());
        let number = self.number(name, default, range.clone());
        let Some(other) = self.value(other_name, "") else { return number };
        // Read once more under the other name, as the same setting; it is known already.
        let as_if = self.number(other_name, default, range);
        self.known.pop();
        if is_named && as_if != number {
            self.faults
                .push(format!("{other_name} is another name of {name}, which says something else: {other}"));
        }
        as_if
    }

    pub(super) fn seconds(
        &mut self,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> Duration {
        Duration::from_secs(self.number(name, default, range))
    }

    pub(super) fn days(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_hours(24 * self.number::<u64>(name, default, range))
    }

    /// One of some words; the first is the default.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&'static str, T)]) -> T {
        let (default, first) = choices[0];
        let Some(value) = self.value(name, default) else { return first };
        let found = choices.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
        found.map_or_else(
            || {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                self.faults.push(format!("{name} must be {}", words.join(" or ")));
                first
            },
            |(_, choice)| *choice,
        )
    }

    pub(super) fn list(&mut self, name: &'static str) -> Vec<String> {
        let value = self.value(name, "").unwrap_or_default();
        value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// Numbers of MLS cipher suites, at least one.
    pub(super) fn cipher_suites(&mut self, name: &'static str, default: &str) -> Vec<CipherSuite> {
        let text = self.text(name, default);
        let suite = |part: &str| part.trim().parse().ok().and_then(|number| CipherSuite::new(number).ok());
        text.split(',').map(suite).collect::<Option<Vec<_>>>().unwrap_or_else(|| {
            self.faults.push(format!("{name} must be some of 1, 2 and 3, comma separated"));
            Vec::new()
        })
    }

    pub(super) fn optional(&mut self, name: &'static str) -> Option<String> {
        self.value(name, "")
    }

    /// An address and a port.
    pub(super) fn address(&mut self, name: &'static str) -> Option<SocketAddr> {
        let address = self.value(name, "")?.parse().ok();
        if address.is_none() {
            self.faults.push(format!("{name} must be an address and a port such as 127.0.0.1:9464"));
        }
        address
    }

    pub(super) fn secret(&mut self, name: &'static str) -> Option<SecretString> {
        self.value(name, "").map(Into::into)
    }

    /// Networks in CIDR notation; a bare address is a network of its own.
    pub(super) fn networks(&mut self, name: &'static str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for part in self.list(name) {
            let bare = || part.parse::<IpAddr>().map(IpNet::from);
            match part.parse::<IpNet>().or_else(|_| bare()) {
                Ok(network) => networks.push(network),
                Err(_) => self.faults.push(format!("{name}: {part} is not a network such as 10.0.0.0/8")),
            }
        }
        networks
    }

    /// One Redis, or a cluster of it, which has a scheme of its own so that nothing is guessed.
    pub(super) fn redis(&mut self, name: &'static str) -> Option<SecretString> {
        let value = self.url(name, &["redis://", "redis+cluster://", "redis+unix://", "unix://"])?;
        let text = value.expose_secret();
        if let Some(seeds) = text.strip_prefix("redis+cluster://") {
            if !is_list_of_seeds(seeds) {
                self.faults.push(format!("{name} must be redis+cluster://user:password@host:port,host:port"));
            }
        } else if text.starts_with("redis://")
            && text.rsplit('@').next().is_some_and(|hosts| hosts.contains(','))
        {
            self.faults.push(format!("{name} names one server; a cluster begins with redis+cluster://"));
        }
        Some(value)
    }

    pub(super) fn url(&mut self, name: &'static str, schemes: &[&str]) -> Option<SecretString> {
        let value = self.value(name, "")?;
        if !schemes.iter().any(|scheme| value.starts_with(scheme)) {
            self.faults.push(format!("{name} must begin with {}", schemes.join(" or ")));
        }
        Some(value.into())
    }

    pub(super) fn master_secret(&mut self, name: &'static str) -> Option<MasterSecret> {
        let value = self.value(name, "")?;
        let bytes = STANDARD.decode(&value).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        if bytes.is_none() {
            self.faults.push(format!("{name} must be 32 bytes in padded base64"));
        }
        bytes.map(MasterSecret)
    }

    /// Whether Kubernetes set this variable because a service is called like this program.
    fn is_service_link(&self, name: &str) -> bool {
        let value = self.vars.get(name).map_or("", String::as_str);
        name.starts_with("RESTANTE_SERVICE_")
            || name.starts_with("RESTANTE_PORT_")
            || (name == "RESTANTE_PORT" && value.contains("://"))
    }

    /// Finds names that were meant to be settings: anything prefixed with the program's name, unknown names in `.env`,
    /// and near misses.
    pub(super) fn check_names(&mut self, file: &BTreeMap<String, String>) {
        let names: Vec<_> = self.vars.keys().cloned().collect();
        for name in names {
            let is_known = self.known.iter().any(|known| known.name == name);
            if is_known || name.starts_with("RESTANTE_TEST_") || self.is_service_link(&name) {
                continue;
            }
            let bare = name.strip_prefix("RESTANTE_").unwrap_or(&name);
            let nearest = self.known.iter().map(|known| (distance(bare, known.name), known.name)).min();
            let near = nearest
                .filter(|(steps, meant)| *steps <= 2 && (bare.len() >= 8 || *steps == 0) && meant.len() >= 4);
            if bare.len() != name.len() || file.contains_key(&name) || near.is_some() {
                let hint = near.map_or_else(
                    || "; the settings are listed in .env.example".to_owned(),
                    |(_, meant)| format!("; did you mean {meant}?"),
                );
                self.faults.push(format!("{name} is not a setting{hint}"));
            }
        }
    }
}

/// Whether this is `host:port,host`, perhaps with a login before it. A path or a question is neither's.
fn is_list_of_seeds(text: &str) -> bool {
    let (login, hosts) = text.rsplit_once('@').unwrap_or(("", text));
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte);
    let is_seed = |seed: &str| {
        let (host, port) = match seed.rsplit_once(':') {
            Some((host, port)) if !seed.ends_with(']') => (host, port),
            _ => (seed, "6379"),
        };
        !host.is_empty() && host.bytes().all(fits) && port.parse::<u16>().is_ok()
    };
    !login.contains(['/', '?', '#', ' ']) && hosts.split(',').all(is_seed)
}

/// How many letters must be put in, left out or changed to make one word of another (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in other.bytes().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}
