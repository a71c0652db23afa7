//! Where settings are written: `.env`, a file named on the command line, the environment. A later one wins.

use std::{collections::BTreeMap, ffi::OsString, fmt, fs, path::Path};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

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
    /// What could not be read of it.
    pub(super) faults: Vec<String>,
    /// Whether it is unclear where names and values begin and end: a name may then be a part of a secret.
    pub(super) garbled: bool,
}

impl Layer {
    pub(super) fn of_text(source: Source, vars: &BTreeMap<String, String>) -> Self {
        let vars = vars.iter().map(|(name, text)| (name.clone(), Given::from(text.clone()))).collect();
        Self { source, vars, faults: Vec::new(), garbled: false }
    }

    /// A source of which nothing can be read.
    fn unreadable(source: Source, fault: String) -> Self {
        Self { source, vars: BTreeMap::new(), faults: vec![fault], garbled: false }
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
pub(super) fn dot_env() -> Layer {
    let unreadable = || Layer::unreadable(Source::DotEnv, ".env cannot be read".into());
    let lines = match dotenvy::from_path_iter(".env") {
        Ok(lines) => lines,
        Err(error) if error.not_found() => return Layer::of_text(Source::DotEnv, &BTreeMap::new()),
        Err(_) => return unreadable(),
    };
    let (mut vars, mut garbled) = (BTreeMap::new(), false);
    for line in lines {
        match line {
            Ok((name, text)) => {
                vars.insert(name, text);
            }
            // A reader that failed may fail for ever.
            Err(dotenvy::Error::Io(_)) => return unreadable(),
            Err(_) => garbled = true,
        }
    }
    let layer = Layer::of_text(Source::DotEnv, &vars);
    // The error itself quotes the line, and so perhaps a secret.
    let bad_line = garbled.then(|| ".env holds a line that is not NAME=value".to_owned());
    Layer { faults: bad_line.into_iter().collect(), garbled, ..layer }
}

/// The settings in a TOML file, flat and by their names in lower case.
pub(super) fn file(path: &Path) -> Layer {
    let name = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => parse(name, &text),
        Err(error) => {
            let fault = format!("{name} cannot be read: {}", error.kind());
            Layer::unreadable(Source::File(name), fault)
        }
    }
}

/// The settings in the text of a TOML file of this name, but for the lines that cannot be read. A fault tells the line, and
/// never quotes it: it may hold a secret.
pub(super) fn parse(name: String, text: &str) -> Layer {
    let line_at = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let (table, errors) = DeTable::parse_recoverable(text);
    let errors: Vec<_> = errors
        .iter()
        .map(|error| (line_at(error.span().unwrap_or_default().start), error.message()))
        .collect();
    let mut faults: Vec<_> = errors.iter().map(|(line, why)| format!("{name} line {line}: {why}")).collect();
    let mut vars = BTreeMap::new();
    for (key, value) in table.into_inner() {
        let lines = line_at(key.span().start)..=line_at(value.span().end);
        if errors.iter().any(|(line, _)| lines.contains(line)) {
            continue;
        }
        let (line, key) = (*lines.start(), key.into_inner());
        if key.bytes().any(|byte| byte.is_ascii_uppercase()) {
            faults.push(format!("{name} line {line}: the names of settings are in lower case here"));
            continue;
        }
        let (text, shape) = read(value.get_ref());
        vars.insert(key.to_ascii_uppercase(), Given { text, shape, line: Some(line) });
    }
    Layer { source: Source::File(name), vars, faults, garbled: !errors.is_empty() }
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
