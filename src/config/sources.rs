//! Where settings are written: `.env`, a file named on the command line, the environment. A later one wins.

use std::{collections::BTreeMap, ffi::OsString, fmt, fs, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::Faults;

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nobody set it.
    Default,
    /// `.env` in the current folder.
    DotEnv,
    /// The file of this name.
    File(String),
    /// The environment.
    Environment,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "default",
            Self::DotEnv => ".env",
            Self::File(name) => name,
            Self::Environment => "environment",
        })
    }
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// As in the environment, where everything is text.
    Plain,
    Quoted,
    Number,
    Switch,
    List,
    /// As no setting is.
    Other,
}

/// A value as somebody set it.
pub(super) struct Given {
    pub(super) text: String,
    pub(super) shape: Shape,
    /// The line in its file.
    line: Option<usize>,
}

impl From<String> for Given {
    fn from(text: String) -> Self {
        Self { text, shape: Shape::Plain, line: None }
    }
}

/// What one source sets, by the settings' names.
pub(super) struct Layer {
    pub(super) source: Source,
    pub(super) vars: BTreeMap<String, Given>,
}

impl Layer {
    pub(super) fn of_text(source: Source, vars: &BTreeMap<String, String>) -> Self {
        let vars = vars.iter().map(|(name, text)| (name.clone(), Given::from(text.clone()))).collect();
        Self { source, vars }
    }

    /// Where a fault is, and the name as it is written there.
    pub(super) fn place(&self, name: &str) -> String {
        match (&self.source, self.vars.get(name).and_then(|given| given.line)) {
            (Source::File(file), Some(line)) => format!("{file} line {line}: {}", self.spelling(name)),
            _ => name.to_owned(),
        }
    }

    /// A setting's name as this source writes it.
    pub(super) fn spelling(&self, name: &str) -> String {
        if matches!(self.source, Source::File(_)) { name.to_ascii_lowercase() } else { name.to_owned() }
    }
}

/// The environment of this process.
pub(super) fn environment() -> Layer {
    // No setting is anything but text; what else is in the environment is not ours.
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    Layer::of_text(Source::Environment, &std::env::vars_os().filter_map(text).collect())
}

/// `.env` in the current folder; nothing when there is none.
pub(super) fn dot_env() -> Result<Layer, Faults> {
    let bad_line = || Faults(vec![".env holds a line that is not NAME=value".into()]);
    let vars = match dotenvy::from_path_iter(".env") {
        // The error itself quotes the line, and so perhaps a secret.
        Ok(lines) => lines.collect::<Result<BTreeMap<_, _>, _>>().map_err(|_| bad_line())?,
        Err(error) if error.not_found() => BTreeMap::new(),
        Err(_) => return Err(Faults(vec![".env cannot be read".into()])),
    };
    Ok(Layer::of_text(Source::DotEnv, &vars))
}

/// The settings in a TOML file, flat and by their names in lower case.
pub(super) fn file(path: &Path) -> Result<Layer, Faults> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path)
        .map_err(|error| Faults(vec![format!("{name} cannot be read: {}", error.kind())]))?;
    parse(name, &text)
}

/// The settings in the text of a TOML file of this name. A fault tells the line, and never quotes it: it may hold a secret.
pub(super) fn parse(name: String, text: &str) -> Result<Layer, Faults> {
    let line_at = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<_> = errors
        .iter()
        .map(|error| {
            let line = line_at(error.span().unwrap_or_default().start);
            format!("{name} line {line}: {}", error.message())
        })
        .collect();
    let mut vars = BTreeMap::new();
    for (key, value) in table.into_inner() {
        let line = line_at(key.span().start);
        let key = key.into_inner();
        if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            faults.push(format!("{name} line {line}: {key}: the names of settings are in lower case here"));
            continue;
        }
        let (text, shape) = read(value.get_ref());
        vars.insert(key.to_ascii_uppercase(), Given { text, shape, line: Some(line) });
    }
    if faults.is_empty() { Ok(Layer { source: Source::File(name), vars }) } else { Err(Faults(faults)) }
}

fn read(value: &DeValue<'_>) -> (String, Shape) {
    match value {
        DeValue::String(text) => (text.to_string(), Shape::Quoted),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| (String::new(), Shape::Other), |number| (number.to_string(), Shape::Number)),
        DeValue::Boolean(on) => (on.to_string(), Shape::Switch),
        DeValue::Array(items) => list(items.iter().map(Spanned::get_ref)),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => (String::new(), Shape::Other),
    }
}

/// A list as the environment writes it: comma separated.
fn list<'a>(items: impl Iterator<Item = &'a DeValue<'a>>) -> (String, Shape) {
    let mut texts = Vec::new();
    for item in items {
        match read(item) {
            (text, Shape::Quoted | Shape::Number) if !text.contains(',') => texts.push(text),
            _ => return (String::new(), Shape::Other),
        }
    }
    (texts.join(","), Shape::List)
}
