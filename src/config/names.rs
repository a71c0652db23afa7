//! Finds names that were meant to be settings.

use super::{
    Known, Source,
    reader::Reader,
    sources::{Given, Layer},
};

impl Known {
    /// The name under which a file with the value may be named; none where the value is no secret.
    pub(super) fn file_name(&self) -> Option<String> {
        self.kind.is_secret().then(|| format!("{}_FILE", self.name))
    }
}

impl Reader {
    /// Tells of names that are no settings: all of them in files, and in the environment what begins with the program's
    /// name and what nearly is one.
    pub(super) fn check_names(&mut self) {
        let plain = self.known.iter().map(|known| known.name.to_owned());
        let names: Vec<_> = plain.chain(self.known.iter().filter_map(Known::file_name)).collect();
        let strange: Vec<_> = self
            .layers
            .iter()
            .filter(|layer| !layer.garbled)
            .flat_map(|layer| {
                let unknown = layer.vars.iter().filter(|(name, _)| !names.contains(name));
                unknown.filter_map(|(name, given)| fault(layer, name, given, &names))
            })
            .collect();
        for (fault, meant) in strange {
            self.faults.push(fault);
            let missed = self.known.iter().find(|known| {
                let meant = meant.as_deref();
                meant == Some(known.name) || (meant.is_some() && meant == known.file_name().as_deref())
            });
            if let Some(name) = missed.map(|known| known.name) {
                self.note_missed(name);
            }
        }
    }
}

/// What is wrong with a name, and which one was meant.
fn fault(layer: &Layer, name: &str, given: &Given, names: &[String]) -> Option<(String, Option<String>)> {
    let in_environment = layer.source == Source::Environment;
    if in_environment && (name.starts_with("RESTANTE_TEST_") || is_service_link(name, &given.text)) {
        return None;
    }
    let bare = name.strip_prefix("RESTANTE_").unwrap_or(name);
    let nearest = names.iter().map(|known| (distance(bare, known), known)).min();
    let near = nearest.filter(|(steps, meant)| {
        *steps <= 2 && (bare.len() >= 8 || *steps == 0 || !in_environment) && meant.len() >= 4
    });
    if in_environment && bare.len() == name.len() && near.is_none() {
        return None;
    }
    let hint = near.map_or_else(
        || "; the settings are listed in .env.example".to_owned(),
        |(_, meant)| format!("; did you mean {}?", layer.spelling(meant)),
    );
    let meant = near.map(|(_, meant)| meant.clone());
    Some((format!("{} is not a setting{hint}", layer.place(name)), meant))
}

/// Whether Kubernetes set this variable because a service is called like this program.
fn is_service_link(name: &str, value: &str) -> bool {
    name.starts_with("RESTANTE_SERVICE_")
        || name.starts_with("RESTANTE_PORT_")
        || (name == "RESTANTE_PORT" && value.contains("://"))
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
