//! Who may import whom: the source held against the table of the architecture.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The longest a source file may be.
const LONGEST: usize = 450;

/// Crates that only some rooms may know.
const GUARDED: [&str; 7] =
    ["actix_web", "actix_http", "actix_cors", "sqlx", "redis", "serde_json", "metrics_exporter_prometheus"];

const ACTIX: [&str; 2] = ["actix_web", "actix_http"];

/// A room of the house: the files whose path begins so, the parts of this crate they may use, and the guarded crates.
/// A room may always use its own insides.
struct Room {
    files: &'static [&'static str],
    uses: &'static [&'static str],
    crates: &'static [&'static str],
}

/// The first room that fits a file counts.
const HOUSE: &[Room] = &[
    Room { files: &["main.rs", "lib.rs", "app", "api", "cli"], uses: &[""], crates: &GUARDED },
    // The door for fuzzers: no part of the relay.
    Room {
        files: &[
            "fuzzed",
            "auth/fuzzed",
            "groups/fuzzed",
            "groups/mls/fuzzed",
            "hot/redis/fuzzed",
            "http/fuzzed",
            "keys/fuzzed",
            "messages/fuzzed",
            "queue/fuzzed",
        ],
        uses: &[""],
        crates: &["serde_json"],
    },
    Room { files: &["domain"], uses: &["domain"], crates: &[] },
    Room {
        files: &["store/sqlite"],
        uses: &["domain", "store", "metrics", "!store::postgres"],
        crates: &["sqlx", "serde_json"],
    },
    Room {
        files: &["store/postgres"],
        uses: &["domain", "store", "metrics", "!store::sqlite"],
        crates: &["sqlx", "serde_json"],
    },
    // The queue before a commit, which both engines share with their driver, and the way after it.
    Room {
        files: &["store/lane.rs", "store/lane/tests.rs"],
        uses: &["domain", "store", "metrics"],
        crates: &["sqlx"],
    },
    Room { files: &["store/committed.rs"], uses: &["domain", "metrics"], crates: &[] },
    Room { files: &["store"], uses: &["domain", "store", "!store::sqlite", "!store::postgres"], crates: &[] },
    Room { files: &["hot/local"], uses: &["domain", "hot", "metrics", "!hot::redis"], crates: &[] },
    Room { files: &["hot/redis"], uses: &["domain", "hot", "metrics", "!hot::local"], crates: &["redis"] },
    Room {
        files: &["hot/counted.rs", "hot/switchboard.rs"],
        uses: &["domain", "hot", "metrics", "!hot::local", "!hot::redis"],
        crates: &[],
    },
    Room { files: &["hot"], uses: &["domain", "hot", "!hot::local", "!hot::redis"], crates: &[] },
    // Pure rules: keys and bodies are looked at without a store, a clock or a runtime.
    Room { files: &["keys/signal", "keys/mls"], uses: &["domain", "keys::signal", "verify"], crates: &[] },
    Room { files: &["groups/mls"], uses: &["domain", "groups::mls", "verify"], crates: &[] },
    Room { files: &["verify.rs"], uses: &["domain"], crates: &[] },
    Room { files: &["messages/structure"], uses: &["domain", "messages::structure"], crates: &[] },
    Room { files: &["config"], uses: &["domain::CipherSuite", "store", "config"], crates: &[] },
    Room { files: &["wire"], uses: &["domain", "wire"], crates: &["serde_json"] },
    Room {
        files: &["telemetry"],
        uses: &["config::LogFormat", "config::TraceSettings", "metrics", "telemetry"],
        crates: &["serde_json"],
    },
    Room {
        files: &["abuse"],
        uses: &[
            "abuse",
            "config::RateLimits",
            "domain",
            "hot::Budgets",
            "hot::Crowds",
            "hot::Hold",
            "hot::Spent",
            "metrics",
            "store::MOST_BLOCKS",
            "store::Store",
            "store::StoreError",
        ],
        crates: &[],
    },
    // What each of many holders has of a thing.
    Room { files: &["shares.rs"], uses: &[], crates: &[] },
    Room { files: &["metrics.rs"], uses: &[], crates: &["metrics_exporter_prometheus"] },
    Room {
        files: &["jobs.rs"],
        uses: &[
            "abuse::Blocks",
            "domain",
            "store",
            "hot",
            "auth",
            "metrics",
            "!store::sqlite",
            "!store::postgres",
            "!hot::local",
            "!hot::redis",
        ],
        crates: &[],
    },
    // Connections, before anybody knows what is asked on them.
    Room {
        files: &["net"],
        uses: &[
            "net",
            "config::TlsFiles",
            "config::Transport",
            "config::is_within",
            "domain",
            "metrics",
            "shares",
        ],
        crates: &ACTIX,
    },
    Room {
        files: &["http"],
        uses: &[
            "abuse",
            "config",
            "domain",
            "store::Store",
            "store::StoreError",
            "hot::Switchboard",
            "hot::Budgets",
            "hot::Spent",
            "metrics",
            "shares",
            "wire",
            "http",
        ],
        crates: &["actix_web", "serde_json"],
    },
    Room {
        files: &["auth/routes", "auth/body"],
        uses: &["auth", "domain", "http", "store", "wire"],
        crates: &["actix_web"],
    },
    // The host application's word, pure but for where its keys come from.
    Room {
        files: &["auth/admission"],
        uses: &[
            "auth::admission",
            "config::AdmissionAlgorithm",
            "config::AdmissionSettings",
            "domain",
            "store::SingleUse",
            "wire::parse_uuid",
        ],
        crates: &["serde_json"],
    },
    Room {
        files: &["auth"],
        uses: &["auth", "domain", "hot", "http::Problem", "keys::signal", "store", "wire", "!auth::routes"],
        crates: &["actix_web", "serde_json"],
    },
    // The edges of the features.
    Room {
        files: &["keys/routes", "keys/body", "keys/problem"],
        uses: &["auth", "config", "domain", "http", "store", "wire", "keys"],
        crates: &ACTIX,
    },
    Room {
        files: &["groups/routes", "groups/body", "groups/answers", "groups/requests", "groups/problem"],
        uses: &["auth", "domain", "http", "store", "wire", "groups"],
        crates: &ACTIX,
    },
    Room { files: &["messages/body.rs"], uses: &["domain", "http", "wire", "messages"], crates: &[] },
    Room {
        files: &["messages/routes"],
        uses: &[
            "auth",
            "config",
            "domain",
            "http",
            "store",
            "wire",
            "messages",
            "queue::routes::queue_routes",
        ],
        crates: &["actix_web", "serde_json"],
    },
    Room {
        files: &["queue/routes", "queue/session", "queue/frames"],
        uses: &[
            "abuse",
            "auth",
            "config",
            "domain",
            "http",
            "store",
            "hot",
            "wire",
            "queue",
            "messages",
            "groups",
            "metrics",
            "net::Giving",
            "keys",
            "!messages::routes",
            "!groups::routes",
            "!keys::routes",
        ],
        crates: &["actix_web", "actix_http", "serde_json"],
    },
    // The bytes of the socket: a frame codec over actix's payload, nothing of the features.
    Room { files: &["queue/inbox.rs", "queue/outbox.rs"], uses: &["queue"], crates: &ACTIX },
    // The rules of the features.
    Room { files: &["keys"], uses: &["domain", "store", "hot", "metrics", "keys"], crates: &[] },
    Room { files: &["messages"], uses: &["domain", "store", "hot", "metrics", "messages"], crates: &[] },
    Room { files: &["queue"], uses: &["domain", "store", "hot", "metrics", "queue"], crates: &[] },
    Room { files: &["groups"], uses: &["domain", "store", "hot", "metrics", "groups"], crates: &[] },
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Every source file: its path under `src` and its text.
fn files() -> Vec<(String, String)> {
    let (mut folders, mut files) = (vec![source()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(source()).unwrap().display().to_string();
                files.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    files.sort();
    files
}

/// The code without comments and without its test module.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().map(|line| line.split("//").next().unwrap()).collect::<Vec<_>>().join("\n")
}

/// The module that a file is.
fn module(file: &str) -> Vec<&str> {
    let mut parts: Vec<_> = file.trim_end_matches(".rs").split('/').collect();
    if matches!(parts.last(), Some(&("mod" | "lib" | "main"))) {
        parts.pop();
    }
    parts
}

/// Everything of this crate that a file names, as full paths.
fn used(file: &str, code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (root, _) in code.match_indices("crate::") {
        if starts_a_path(code, root) {
            expand(&code[root + 7..], "", &mut found);
        }
    }
    for (root, _) in code.match_indices("super::") {
        if !starts_a_path(code, root) {
            continue;
        }
        let (mut parts, mut rest) = (module(file), &code[root..]);
        while let Some(further) = rest.strip_prefix("super::") {
            parts.pop();
            rest = further;
        }
        expand(rest, &parts.join("::"), &mut found);
    }
    found
}

fn starts_a_path(code: &str, at: usize) -> bool {
    !code[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | ':' | '$'))
}

/// Adds the paths that the beginning of `rest` names below `root`, through braces. Returns what follows.
fn expand<'a>(rest: &'a str, root: &str, found: &mut BTreeSet<String>) -> &'a str {
    let rest = rest.trim_start();
    let join = |name: &str| if root.is_empty() { name.to_owned() } else { format!("{root}::{name}") };
    if let Some(mut rest) = rest.strip_prefix('{') {
        loop {
            rest = rest.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let before = rest;
            rest = expand(rest, root, found);
            if let Some(renamed) = rest.trim_start().strip_prefix("as ") {
                rest = renamed.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_' || c == ' ');
            }
            assert!(rest.len() < before.len(), "not understood: {before:.60}");
        }
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != '*').unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    match after.strip_prefix("::") {
        Some(after) if !after.starts_with('<') => expand(after, &join(name), found),
        _ => {
            found.insert(join(name));
            after
        }
    }
}

fn room(file: &str) -> &'static Room {
    let fits = |prefix: &&str| {
        let rest = file.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']))
    };
    let found = HOUSE.iter().find(|room| room.files.iter().any(fits));
    found.unwrap_or_else(|| panic!("{file} is in no room of the house: add it to the table"))
}

fn within(path: &str, part: &str) -> bool {
    part.is_empty() || path.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

fn allowed(room: &Room, path: &str) -> bool {
    let barred = room.uses.iter().filter_map(|part| part.strip_prefix('!')).any(|part| within(path, part));
    !barred && room.uses.iter().filter(|part| !part.starts_with('!')).any(|part| within(path, part))
}

#[test]
fn every_room_uses_only_what_the_table_allows() {
    let mut faults = Vec::new();
    for (file, text) in files() {
        let (code, room) = (code(&text), room(&file));
        for path in used(&file, &code) {
            // A module names its own children and what stands in its own folder.
            if !allowed(room, &path) {
                faults.push(format!("{file} uses crate::{path}"));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn guarded_crates_stay_in_their_rooms() {
    let mut faults = Vec::new();
    for (file, text) in files() {
        let (code, room) = (code(&text), room(&file));
        for name in GUARDED {
            let path = format!("{name}::");
            let is_named = code.match_indices(&path).any(|(at, _)| starts_a_path(&code, at));
            if is_named && !room.crates.contains(&name) {
                faults.push(format!("{file} uses {name}"));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn nobody_imports_the_composition_root_but_the_program() {
    for (file, text) in files() {
        let known = ["main.rs", "cli.rs", "app.rs"].contains(&&*file) || file.starts_with("app/");
        let imports = used(&file, &code(&text)).iter().any(|path| within(path, "app"));
        assert!(known || !imports, "{file} imports app");
    }
}

#[test]
fn every_file_is_read_in_one_sitting() {
    let long: Vec<_> = files()
        .into_iter()
        .filter(|(file, _)| !file.ends_with("tests.rs"))
        .map(|(file, text)| (text.lines().count(), file))
        .filter(|(lines, _)| *lines > LONGEST)
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST} lines: {long:?}");
}

#[test]
fn pure_rules_do_not_wait_and_know_no_clock() {
    for (file, text) in files() {
        let pure = ["keys/signal", "keys/mls", "groups/mls", "verify.rs", "messages/structure"];
        if pure.iter().any(|prefix| file.starts_with(prefix)) {
            let code = code(&text);
            for word in ["async ", ".await", "Clock", "SystemTime", "Instant"] {
                assert!(!code.contains(word), "{file} has {word:?}");
            }
        }
    }
}

#[test]
fn paths_are_read_through_braces_and_supers() {
    let code = "use crate::{domain::{A, b::C as D}, store::Store}; use super::{x, super_y}; use super::super::z::Z; crate::wire::f()";
    let found = used("keys/signal/deep.rs", code);
    let expected = [
        "domain::A",
        "domain::b::C",
        "store::Store",
        "keys::signal::x",
        "keys::signal::super_y",
        "keys::z::Z",
        "wire::f",
    ];
    assert_eq!(found, expected.into_iter().map(str::to_owned).collect());
}
