//! Settings as they are shown: in the example of a settings file, and in effect without secrets.

use super::{Config, Source, sources::Shape};

/// How a setting is written in a settings file, and whether it may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A text in quotes.
    Text,
    /// A number.
    Number,
    /// `true` or `false`.
    Switch,
    /// Texts or numbers in brackets; comma separated in the environment.
    List,
    /// A text that nobody may see.
    Secret,
    /// An address that may hold a password.
    Url,
    /// An address that may hold a key anywhere behind its host.
    Endpoint,
    /// A public key, or the path of a file with one. What is not clearly public is not shown: it may be the wrong half.
    PublicKey,
}

impl Kind {
    /// Whether the value may also stand in a file of its own, which `NAME_FILE` names.
    pub(super) const fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Url | Self::Endpoint)
    }

    pub(super) const fn fits(self, shape: Shape) -> bool {
        match shape {
            Shape::Plain => true,
            Shape::Quoted => {
                matches!(self, Self::Text | Self::Secret | Self::Url | Self::Endpoint | Self::PublicKey)
            }
            Shape::Number => matches!(self, Self::Number),
            Shape::Switch => matches!(self, Self::Switch),
            Shape::List => matches!(self, Self::List),
            Shape::Other => false,
        }
    }

    pub(super) const fn in_words(self) -> &'static str {
        match self {
            Self::Text | Self::Secret | Self::Url | Self::Endpoint | Self::PublicKey => "a text in quotes",
            Self::Number => "a whole number without quotes",
            Self::Switch => "true or false without quotes",
            Self::List => "a list such as [\"a\", \"b\"]",
        }
    }

    /// A value as a settings file writes it, without what nobody may see.
    fn shown(self, value: &str) -> String {
        match self {
            Self::Number | Self::Switch => value.to_owned(),
            Self::List => listed(value),
            Self::Text => format!("{value:?}"),
            Self::Secret | Self::Url | Self::Endpoint | Self::PublicKey if value.is_empty() => "\"\"".into(),
            Self::PublicKey if is_public_key(value) => format!("{value:?}"),
            Self::Secret | Self::PublicKey => "\"(set)\"".into(),
            Self::Url => format!("{:?}", without_login(value).unwrap_or_else(|| "(set)".into())),
            Self::Endpoint => format!("{:?}", origin(value).unwrap_or_else(|| "(set)".into())),
        }
    }
}

fn listed(value: &str) -> String {
    let parts = value.split(',').map(str::trim).filter(|part| !part.is_empty());
    let quoted = parts.map(|part| match part.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) => format!("{part:?}"),
    });
    format!("[{}]", quoted.collect::<Vec<_>>().join(", "))
}

/// Whether a text is one public key in PEM, and nothing else.
fn is_public_key(text: &str) -> bool {
    let inside = text.strip_prefix("-----BEGIN PUBLIC KEY-----");
    let inside = inside.and_then(|text| text.strip_suffix("-----END PUBLIC KEY-----"));
    inside.is_some_and(|text| !text.contains('-'))
}

/// The scheme, host and port of an address; none when it is not clear where those end.
fn origin(url: &str) -> Option<String> {
    let shown = without_login(url)?;
    let (scheme, rest) = shown.split_once("://")?;
    let place = rest.strip_prefix("***@").unwrap_or(rest);
    let host = place.split(['/', '?']).next().unwrap_or_default();
    let login = if rest.len() == place.len() { "" } else { "***@" };
    let hidden = if host.len() == place.len() { "" } else { "/***" };
    Some(format!("{scheme}://{login}{host}{hidden}"))
}

/// An address without its login and its parameters; none when it is not clear where those end.
fn without_login(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let (login, place) = rest.rsplit_once('@').map_or(("", rest), |(_, place)| ("***@", place));
    let hidden = rest.len() - place.len();
    if rest[..hidden].contains(['/', '?', '#']) {
        return None;
    }
    let (place, parameters) = match place.split_once(['?', '#']) {
        Some((place, _)) => (place, "?***"),
        None => (place, ""),
    };
    let hosts = place.split('/').next().unwrap_or_default();
    let has_port = |host: &str| {
        let port = host.rsplit_once(':').map_or("", |(_, port)| port);
        host.ends_with(']') || port.bytes().all(|byte| byte.is_ascii_digit())
    };
    hosts.split(',').all(has_port).then(|| format!("{scheme}://{login}{place}{parameters}"))
}

/// A setting's name, kind and default as `.env.example` must show them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The name.
    pub name: &'static str,
    /// How it is written.
    pub kind: Kind,
    /// The default; empty when there is none.
    pub default: String,
}

impl Known {
    /// The value that is in effect, or the default, as a settings file writes it and without secrets.
    pub(super) fn in_effect(&self, given: Option<&str>, source: Source) -> InEffect {
        let value = self.kind.shown(given.unwrap_or(&self.default));
        InEffect { name: self.name.to_ascii_lowercase(), value, source }
    }
}

/// A setting in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InEffect {
    /// Its name in lower case.
    pub name: String,
    /// Its value as a settings file writes it, secrets left out.
    pub value: String,
    /// Where it comes from.
    pub source: Source,
}

const HEADING: &str = "\
# Restante's settings, for `restante --config restante.toml`: those of .env.example, their names in lower case.
# Uncomment what you change. The environment wins over this file, and this file over .env. A name that is not a setting
# stops the relay at start; so does a value of another kind. `restante config check` tells all faults at once.
# What is secret may stand in a file of its own: master_secret_file = \"/run/secrets/master\" instead of master_secret.
";

/// A settings file that shows every setting with its description and its default.
#[must_use]
pub fn example() -> String {
    let known = Config::known();
    let as_toml = |line: &str| {
        let (name, default) = line.strip_prefix('#')?.split_once('=')?;
        let setting = known.iter().find(|setting| setting.name == name)?;
        Some(format!("#{} = {}", setting.name.to_ascii_lowercase(), setting.kind.shown(default)))
    };
    let described = include_str!("../../.env.example").lines().skip_while(|line| !line.is_empty());
    let lines: Vec<_> = described.map(|line| as_toml(line).unwrap_or_else(|| line.to_owned())).collect();
    format!("{HEADING}{}\n", lines.join("\n"))
}
