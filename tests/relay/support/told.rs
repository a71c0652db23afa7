//! What websocket.md tells of frames, and whether a frame is as it tells. Every frame that any test reads is held against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use serde_json::Value;

const PAGE: &str = include_str!("../../../proto-docs/websocket.md");

/// A frame as the page describes it.
struct Told {
    fields: BTreeSet<String>,
    example: Value,
}

type Frames = BTreeMap<String, Told>;

static FROM_THE_RELAY: LazyLock<Frames> = LazyLock::new(|| frames("## Frames from the relay"));
static FROM_THE_CLIENT: LazyLock<Frames> = LazyLock::new(|| frames("## Frames from the client"));

/// Asserts that a frame of the relay is of a type that is described, and has no field that is not.
pub(crate) fn assert_told(frame: &Value) {
    let kind = frame["type"].as_str().unwrap_or_default();
    let Some(told) = FROM_THE_RELAY.get(kind) else { panic!("websocket.md does not tell of {frame}") };
    // The further members of a refusal are in problems.md.
    if kind == "error" {
        return;
    }
    for field in frame.as_object().unwrap().keys() {
        assert!(told.fields.contains(field), "websocket.md does not tell of {field} in {frame}");
    }
}

/// The example of each frame that clients send.
pub(crate) fn examples_of_clients() -> impl Iterator<Item = &'static Value> {
    FROM_THE_CLIENT.values().map(|told| &told.example)
}

/// The frames of a part of the page. A field is told in a table's first cell, or else by the example.
fn frames(part: &str) -> Frames {
    let (_, rest) = PAGE.split_once(part).unwrap();
    let part = rest.split_once("\n## ").map_or(rest, |(part, _)| part);
    let sections = part.split("\n### `").skip(1).map(|section| {
        let (kind, body) = section.split_once('`').unwrap();
        let (json, _) = body.split_once("```json\n").unwrap().1.split_once("```").unwrap();
        let example: Value = serde_json::from_str(json).unwrap();
        let cells = body.lines().filter_map(|line| line.strip_prefix("| `")?.split_once(" | "));
        let names =
            cells.flat_map(|(cell, _)| cell.split(", ").map(|name| name.trim_matches('`').to_owned()));
        let shown = example.as_object().unwrap().keys().cloned();
        (kind.to_owned(), Told { fields: names.chain(shown).collect(), example })
    });
    sections.collect()
}
