//! Reads settings one by one, and remembers which there are and what is wrong with them.

use std::{
    collections::BTreeSet,
    fmt,
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    str::FromStr,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::EnvFilter;

use super::{InEffect, Kind, Known, MasterSecret, Source, TlsFiles, sources::Layer};
use crate::domain::CipherSuite;

/// Bytes of a file that holds a secret.
const MOST_OF_A_SECRET: u64 = 64 << 10;

/// Reads settings, remembers which there are and what is wrong with them.
pub(super) struct Reader {
    /// Where they are written; a later one wins.
    pub(super) layers: Vec<Layer>,
    pub(super) known: Vec<Known>,
    pub(super) in_effect: Vec<InEffect>,
    pub(super) faults: Vec<String>,
    /// Settings that have a fault: what is read in their place says nothing.
    faulty: BTreeSet<&'static str>,
    /// Whether a part of a layer could not be read, so that what seems to be missing may be there.
    partial: bool,
}

impl Reader {
    pub(super) fn over(layers: Vec<Layer>) -> Self {
        let faults: Vec<_> = layers.iter().flat_map(|layer| layer.faults.clone()).collect();
        let partial = !faults.is_empty();
        Self { layers, known: Vec::new(), in_effect: Vec::new(), faults, faulty: BTreeSet::new(), partial }
    }

    /// Tells what is wrong with a setting.
    pub(super) fn fault(&mut self, name: &'static str, fault: String) {
        self.faults.push(fault);
        self.faulty.insert(name);
    }

    /// Notes that somebody meant this setting and missed it.
    pub(super) fn note_missed(&mut self, name: &'static str) {
        self.faulty.insert(name);
    }

    /// Whether it is known what these settings say: none has a fault, and none may stand where nothing could be read. What
    /// follows from a value that is not known would be told beside the fault that it comes from.
    pub(super) fn knows(&self, names: &[&str]) -> bool {
        let is_known = |name: &str| {
            let given = self.in_effect.iter().find(|setting| setting.name.eq_ignore_ascii_case(name));
            let is_absent = given.is_none_or(|setting| setting.source == Source::Default);
            !(self.faulty.contains(name) || self.partial && is_absent)
        };
        names.iter().all(|name| is_known(name))
    }

    /// Tells what is wrong with these settings together, if it is known what they say.
    pub(super) fn clash(&mut self, names: &[&'static str], fault: impl Into<String>) {
        if self.knows(names) {
            self.faults.push(fault.into());
        }
    }

    /// The trimmed value of a text; an empty one counts as absent.
    fn value(&mut self, name: &'static str, default: impl Into<String>) -> Option<String> {
        self.given(name, Kind::Text, default)
    }

    /// The trimmed value of a setting; an empty one counts as absent.
    fn given(&mut self, name: &'static str, kind: Kind, default: impl Into<String>) -> Option<String> {
        let known = Known { name, kind, default: default.into() };
        let (text, source) = match self.find(&known) {
            Ok(found) => found.map_or((None, Source::Default), |(text, source)| (Some(text), source)),
            Err(fault) => {
                self.fault(name, fault);
                (None, Source::Default)
            }
        };
        self.in_effect.push(known.in_effect(text.as_deref(), source));
        self.known.push(known);
        text
    }

    /// The value of the setting of this name as the relay takes it, or its default; none where there is no such setting.
    pub(super) fn value_of(&self, name: &str) -> Option<Result<String, String>> {
        let known = self.known.iter().find(|known| known.name.eq_ignore_ascii_case(name))?;
        let found = self.find(known);
        Some(found.map(|found| found.map_or_else(|| known.default.clone(), |(text, _)| text)))
    }

    /// What the last layer says that says anything, an empty value being a word too: it takes back what others say.
    fn find(&self, known: &Known) -> Result<Option<(String, Source)>, String> {
        let beside = known.file_name();
        for layer in self.layers.iter().rev() {
            let of = |name: &str| layer.vars.get(name).map(|given| (given, given.text.trim()));
            let (text, path) = (of(known.name), beside.as_deref().and_then(of));
            match (text, path) {
                (None, None) => {}
                (Some((_, text)), Some((_, path))) if !text.is_empty() && !path.is_empty() => {
                    return Err(format!("{} and {}_FILE exclude each other", known.name, known.name));
                }
                (_, Some((given, path))) if !path.is_empty() => {
                    let place = layer.place(&format!("{}_FILE", known.name));
                    if !Kind::Text.fits(given.shape) {
                        return Err(format!("{place} must be {}", Kind::Text.in_words()));
                    }
                    let text = secret_in(path).map_err(|why| format!("{place}: {why}"))?;
                    return Ok(Some((text, layer.source.clone())));
                }
                (Some((given, text)), _) => {
                    if !known.kind.fits(given.shape) {
                        return Err(format!("{} must be {}", layer.place(known.name), known.kind.in_words()));
                    }
                    return Ok((!text.is_empty()).then(|| (text.to_owned(), layer.source.clone())));
                }
                (None, Some(_)) => return Ok(None),
            }
        }
        Ok(None)
    }

    pub(super) fn text(&mut self, name: &'static str, default: &str) -> String {
        self.value(name, default).unwrap_or_else(|| default.to_owned())
    }

    /// What is logged, as tracing reads it.
    pub(super) fn directives(&mut self, name: &'static str, default: &str) -> String {
        let text = self.text(name, default);
        if EnvFilter::try_new(&text).is_err() {
            self.fault(name, format!("{name} must be tracing directives such as warn,restante=debug"));
        }
        text
    }

    pub(super) fn parsed<T: FromStr + fmt::Display>(
        &mut self,
        name: &'static str,
        default: T,
        kind: &str,
    ) -> T {
        let Some(value) = self.value(name, default.to_string()) else { return default };
        value.parse().unwrap_or_else(|_| {
            self.fault(name, format!("{name} must be {kind}"));
            default
        })
    }

    pub(super) fn number<T>(&mut self, name: &'static str, default: u64, range: RangeInclusive<u64>) -> T
    where
        T: TryFrom<u64> + Default,
    {
        let value = self.given(name, Kind::Number, default.to_string());
        let number = value.and_then(|text| self.number_in(name, &text, &range)).unwrap_or(default);
        T::try_from(number).unwrap_or_default()
    }

    fn number_in(&mut self, name: &'static str, text: &str, range: &RangeInclusive<u64>) -> Option<u64> {
        let number = text.parse().ok().filter(|number| range.contains(number));
        if number.is_none() {
            let (least, most) = (range.start(), range.end());
            self.fault(name, format!("{name} must be a whole number from {least} to {most}"));
        }
        number
    }

    /// A number with two names, of which one is used, or both say the same.
    pub(super) fn number_by_either(
        &mut self,
        name: &'static str,
        other_name: &'static str,
        default: u64,
        range: &RangeInclusive<u64>,
    ) -> usize {
        let text = self.given(name, Kind::Number, default.to_string());
        let other_text = self.given(other_name, Kind::Number, default.to_string());
        let number = text.and_then(|text| self.number_in(name, &text, range));
        let other = other_text.and_then(|text| self.number_in(other_name, &text, range));
        if number.is_some() && other.is_some() && number != other {
            self.fault(
                other_name,
                format!("{other_name} is another name of {name}, which says something else"),
            );
        }
        other.or(number).unwrap_or(default).try_into().unwrap_or_default()
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
        let kind = if matches!(default, "true" | "false") { Kind::Switch } else { Kind::Text };
        let Some(value) = self.given(name, kind, default) else { return first };
        let found = choices.iter().find(|(word, _)| value.eq_ignore_ascii_case(word));
        found.map_or_else(
            || {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                self.fault(name, format!("{name} must be {}", words.join(" or ")));
                first
            },
            |(_, choice)| *choice,
        )
    }

    pub(super) fn list(&mut self, name: &'static str) -> Vec<String> {
        let value = self.given(name, Kind::List, "").unwrap_or_default();
        value.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
    }

    /// Numbers of MLS cipher suites, at least one.
    pub(super) fn cipher_suites(&mut self, name: &'static str, default: &str) -> Vec<CipherSuite> {
        let text = self.given(name, Kind::List, default).unwrap_or_else(|| default.to_owned());
        let suite = |part: &str| part.trim().parse().ok().and_then(|number| CipherSuite::new(number).ok());
        text.split(',').map(suite).collect::<Option<Vec<_>>>().unwrap_or_else(|| {
            self.fault(name, format!("{name} must be some of 1, 2 and 3, comma separated"));
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
            self.fault(name, format!("{name} must be an address and a port such as 127.0.0.1:9464"));
        }
        address
    }

    pub(super) fn secret(&mut self, name: &'static str) -> Option<SecretString> {
        self.given(name, Kind::Secret, "").map(Into::into)
    }

    /// Networks in CIDR notation; a bare address is a network of its own.
    pub(super) fn networks(&mut self, name: &'static str) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for part in self.list(name) {
            let bare = || part.parse::<IpAddr>().map(IpNet::from);
            match part.parse::<IpNet>().or_else(|_| bare()) {
                Ok(network) => networks.push(network),
                Err(_) => self.fault(name, format!("{name}: {part} is not a network such as 10.0.0.0/8")),
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
                self.fault(name, format!("{name} must be redis+cluster://user:password@host:port,host:port"));
            }
        } else if text.starts_with("redis://")
            && text.rsplit('@').next().is_some_and(|hosts| hosts.contains(','))
        {
            self.fault(name, format!("{name} names one server; a cluster begins with redis+cluster://"));
        }
        Some(value)
    }

    /// The files of a certificate and its key: both or neither.
    pub(super) fn tls_files(&mut self, certificate: &'static str, key: &'static str) -> Option<TlsFiles> {
        let (found, its_key) = (self.optional(certificate), self.optional(key));
        match (found, its_key) {
            (Some(certificate), Some(key)) => {
                Some(TlsFiles { certificate: certificate.into(), key: key.into() })
            }
            (None, None) => None,
            (Some(_), None) => self.lacking(key, certificate),
            (None, Some(_)) => self.lacking(certificate, key),
        }
    }

    fn lacking<T>(&mut self, missing: &'static str, given: &'static str) -> Option<T> {
        self.clash(&[missing, given], format!("{missing} is missing: {given} is set, and TLS needs both"));
        None
    }

    /// An address of which no more than the host may be seen.
    pub(super) fn endpoint(&mut self, name: &'static str, schemes: &[&str]) -> Option<SecretString> {
        self.address_of_kind(name, Kind::Endpoint, schemes)
    }

    pub(super) fn url(&mut self, name: &'static str, schemes: &[&str]) -> Option<SecretString> {
        self.address_of_kind(name, Kind::Url, schemes)
    }

    /// A public key in PEM, or the path of a file with one.
    pub(super) fn public_key(&mut self, name: &'static str) -> Option<String> {
        let key = self.given(name, Kind::PublicKey, "")?;
        if key.contains("PRIVATE KEY-----") {
            self.fault(
                name,
                format!("{name} holds a private key, which the relay must not have: give the public one"),
            );
        }
        Some(key)
    }

    fn address_of_kind(&mut self, name: &'static str, kind: Kind, schemes: &[&str]) -> Option<SecretString> {
        let value = self.given(name, kind, "")?;
        if !schemes.iter().any(|scheme| value.starts_with(scheme)) {
            self.fault(name, format!("{name} must begin with {}", schemes.join(" or ")));
        }
        Some(value.into())
    }

    pub(super) fn master_secret(&mut self, name: &'static str) -> Option<MasterSecret> {
        let value = self.given(name, Kind::Secret, "")?;
        let bytes = STANDARD.decode(&value).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        if bytes.is_none() {
            self.fault(name, format!("{name} must be 32 bytes in padded base64"));
        }
        bytes.map(MasterSecret)
    }
}

/// The secret in a file, which has nothing else in it.
fn secret_in(path: &str) -> Result<String, String> {
    let read = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?.take(MOST_OF_A_SECRET).read_to_string(&mut text)?;
        Ok(text)
    };
    let text = read().map_err(|error| format!("the file cannot be read: {}", error.kind()))?;
    match text.trim() {
        "" => Err("the file is empty".into()),
        text => Ok(text.to_owned()),
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
