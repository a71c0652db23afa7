//! The documents say what the code does: problem codes, frames, close codes, routes.

use std::{collections::BTreeSet, fs, io, path::PathBuf};

use restante::api;
use serde_json::Value;

use crate::support::relay::Backend;

type Names = BTreeSet<String>;

const METHODS: [&str; 4] = ["get", "put", "post", "delete"];

#[test]
fn every_problem_code_is_described_and_no_other() {
    let mut used = Names::new();
    for path in files_below("src", "rs").unwrap() {
        used.extend(problem_codes(&fs::read_to_string(path).unwrap()));
    }
    assert!(used.len() > 20, "the codes in the source were not found: {used:?}");
    assert_eq!(first_cells(&document("problems.md").unwrap()), used);
}

#[test]
fn every_frame_is_described_and_no_other() {
    let (frames, told) = (source("queue/frames.rs").unwrap(), document("websocket.md").unwrap());
    let server = variants(&frames, "pub(super) enum ServerFrame {").unwrap();
    let client = matched_words(&frames, "match kind {").unwrap();
    assert!(server.len() > 5 && client.len() > 3, "the frames in the source were not found");
    assert_eq!(headings(section(&told, "## Frames from the relay").unwrap()), server);
    assert_eq!(headings(section(&told, "## Frames from the client").unwrap()), client);
}

#[test]
fn every_example_of_a_frame_is_one() {
    let told = document("websocket.md").unwrap();
    let mut shown = 0;
    for part in told.split("\n### `").skip(1) {
        let (kind, rest) = part.split_once('`').unwrap();
        for example in rest.split("```json\n").skip(1) {
            let (json, _) = example.split_once("```").unwrap();
            let frame: Value = serde_json::from_str(json).unwrap();
            assert_eq!(frame["type"], kind, "{json}");
            shown += 1;
        }
    }
    assert_eq!(shown, told.matches("\n### `").count(), "each frame has one example");
}

#[test]
fn every_close_code_is_described_with_its_reason_and_no_other() {
    let told = document("websocket.md").unwrap();
    let session = ["queue/session.rs", "queue/session/goodbye.rs"].map(|path| source(path).unwrap()).concat();
    let used = close_codes(&session);
    assert!(used.len() > 5, "the close codes in the source were not found: {used:?}");
    let described = section(&told, "## Close codes").unwrap().lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        let code = cells.next()?.parse::<u16>().ok()?;
        Some((code, cells.next()?.trim_matches('`').replace("(none)", "")))
    });
    assert_eq!(described.collect::<BTreeSet<_>>(), used);
}

#[test]
fn the_committed_openapi_document_is_the_generated_one() {
    let committed = document("openapi.json").unwrap();
    assert!(committed == api::document_text(), "run: cargo run -- openapi > proto-docs/openapi.json");
}

/// Elements that have no end.
const VOID: [&str; 2] = ["meta", "!DOCTYPE"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_of_routes_shows_every_one_and_needs_nothing_from_elsewhere() {
    let backend = Backend::embedded();
    let relay = backend.relay(&[]).await;
    let answer = reqwest::get(format!("{}/docs", relay.url())).await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
        (200, "text/html; charset=utf-8")
    );
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(
        !policy.contains("unsafe") && !policy.contains("script-src") && !policy.contains("http"),
        "{policy}"
    );
    let page = answer.text().await.unwrap();

    let openapi: Value = serde_json::from_str(&api::document_text()).unwrap();
    for (path, item) in openapi["paths"].as_object().unwrap() {
        for method in METHODS.iter().filter(|method| item.get(**method).is_some()) {
            let title =
                format!("<span class=\"method\">{}</span> <code>{path}</code>", method.to_uppercase());
            assert_eq!(page.matches(&title).count(), 2, "{method} {path}: in the contents and by itself");
        }
    }
    for name in openapi["components"]["schemas"].as_object().unwrap().keys() {
        assert_eq!(page.matches(&format!("<article id=\"schema-{name}\">")).count(), 1, "{name}");
    }
    assert_is_whole(&page);
    for link in page.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let target = link.strip_prefix('#').map(|id| format!("id=\"{id}\""));
        assert!(target.map_or(link == "/api/v1/openapi.json", |target| page.contains(&target)), "{link}");
    }
    for word in [
        "<script", "<link", "<img", "<iframe", "src=", "http:", "https:", "url(", "@import", " style=", " on",
    ] {
        assert!(
            !page.split('<').any(|tag| format!("<{}", tag.split('>').next().unwrap()).contains(word)),
            "{word}"
        );
    }
    assert!(!page.contains("url(") && !page.contains("@import"));
    backend.finish().await;
}

/// Every element of a page that begins ends, in order.
fn assert_is_whole(page: &str) {
    let mut open = Vec::new();
    for tag in page.split('<').skip(1) {
        let (tag, text) = tag.split_once('>').expect("a tag ends before the next begins");
        assert!(!text.contains('>'), "an unescaped > in {text:?}");
        let name = tag.split_whitespace().next().unwrap();
        match name.strip_prefix('/') {
            Some(ended) => assert_eq!(open.pop(), Some(ended), "before {text:?}"),
            None if VOID.contains(&name) => {}
            None => open.push(name),
        }
    }
    assert_eq!(open, [""; 0]);
}

#[test]
fn every_route_that_a_document_mentions_exists() {
    let openapi: Value = serde_json::from_str(&api::document_text()).unwrap();
    let known: Vec<&str> = openapi["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(known.iter().any(|path| path.starts_with("/api/v1/")), "{known:?}");
    let mut mentioned = 0;
    for path in files_below("proto-docs", "md").unwrap().into_iter().chain([root().join("README.md")]) {
        for route in routes(&fs::read_to_string(&path).unwrap()) {
            let exists = known.iter().any(|template| fits(template, &route));
            assert!(exists, "{} mentions {route}", path.display());
            mentioned += 1;
        }
    }
    assert!(mentioned > 10, "the routes in the documents were not found");
}

#[test]
fn every_route_has_its_place_among_the_examples_and_no_other() {
    let openapi: Value = serde_json::from_str(&api::document_text()).unwrap();
    let mut known = Names::new();
    for (path, item) in openapi["paths"].as_object().unwrap() {
        let methods = METHODS.iter().filter(|method| item[**method].is_object());
        known.extend(methods.map(|method| format!("{} {path}", method.to_uppercase())));
    }
    assert_eq!(headings(&document("rest.md").unwrap()), known);
}

#[test]
fn every_body_that_a_route_takes_is_in_the_openapi_document() {
    let sources = files_below("src", "rs").unwrap().into_iter().map(|path| fs::read_to_string(path).unwrap());
    let taken: usize = sources
        .map(|text| text.matches("body: Body<").count() + text.matches("body: OptionalBody<").count())
        .sum();
    let openapi: Value = serde_json::from_str(&api::document_text()).unwrap();
    let items = openapi["paths"].as_object().unwrap().values();
    let told =
        items.flat_map(|item| METHODS.iter().filter(|method| item[**method]["requestBody"].is_object()));
    assert!(taken > 20, "the bodies in the source were not found");
    assert_eq!(told.count(), taken);
}

#[test]
fn every_code_that_the_openapi_document_names_is_described() {
    let described = first_cells(&document("problems.md").unwrap());
    let openapi: Value = serde_json::from_str(&api::document_text()).unwrap();
    for (path, item) in openapi["paths"].as_object().unwrap() {
        for responses in METHODS.iter().filter_map(|method| item[*method]["responses"].as_object()) {
            let refusals = responses.iter().filter(|(status, _)| status.starts_with('4'));
            for (_, response) in refusals {
                let words = response["description"].as_str().unwrap_or_default();
                for code in words.split('`').skip(1).step_by(2) {
                    assert!(described.contains(code), "{path} names {code}");
                }
            }
        }
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document(name: &str) -> io::Result<String> {
    fs::read_to_string(root().join("proto-docs").join(name))
}

/// The source of a module, without its tests.
fn source(name: &str) -> io::Result<String> {
    fs::read_to_string(root().join("src").join(name)).map(|text| without_tests(&text).to_owned())
}

fn files_below(folder: &str, ending: &str) -> io::Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                files.push(path);
            }
        }
    }
    Ok(files)
}

fn without_tests(source: &str) -> &str {
    source.split_once("#[cfg(test)]").map_or(source, |(before, _)| before)
}

/// The codes in a module: the first text in the arguments of each call that makes a problem.
fn problem_codes(source: &str) -> Names {
    let source = without_tests(source);
    let makers =
        ["::unavailable(", "::too_many(", "unprocessable(", "reasoned(", "Problem::new(", "Self::new("];
    let mut codes = Names::new();
    for maker in makers {
        for call in source.split(maker).skip(1) {
            let arguments = inside(call.trim_start());
            // Other types have a `new` too; a problem's begins with a status.
            let begins = |start: &str| arguments.starts_with(start);
            let is_problem = !maker.ends_with("::new(") || begins("4") || begins("5") || begins("StatusCode");
            // Where the status is worked out, the code is chosen by it.
            let choices = if begins("status") { usize::MAX } else { usize::from(is_problem) };
            codes.extend(texts(arguments).filter(|text| is_code(text)).take(choices).map(str::to_owned));
        }
    }
    codes
}

/// What stands before the parenthesis that closes the call.
fn inside(arguments: &str) -> &str {
    let mut depth = 1;
    for (index, letter) in arguments.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return &arguments[..index];
        }
    }
    arguments
}

/// The texts between quotes.
fn texts(source: &str) -> impl Iterator<Item = &str> {
    source.split('"').skip(1).step_by(2)
}

fn is_code(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
}

/// The variants of an enum, as serde writes them in snake case.
fn variants(source: &str, opening: &str) -> Option<Names> {
    let (_, rest) = source.split_once(opening)?;
    let (body, _) = rest.split_once("\n}")?;
    let names = body.lines().filter_map(|line| line.strip_prefix("    "));
    let names = names.filter(|line| line.starts_with(|letter: char| letter.is_ascii_uppercase()));
    let word = |line: &str| line.chars().take_while(char::is_ascii_alphanumeric).collect::<String>();
    Some(names.map(|line| snake_case(&word(line))).collect())
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// The texts that the arms of a match begin with.
fn matched_words(source: &str, opening: &str) -> Option<Names> {
    let (_, arms) = source.split_once(opening)?;
    let word = |line: &str| Some(line.trim_start().strip_prefix('"')?.split_once("\" =>")?.0.to_owned());
    Some(arms.lines().filter_map(word).collect())
}

/// The close codes that a session gives, with their reasons: `(1001, "going away")`.
fn close_codes(source: &str) -> BTreeSet<(u16, String)> {
    let found = source.split('(').filter_map(|part| {
        let (number, rest) = part.split_once(", \"")?;
        let code = number.parse::<u16>().ok().filter(|code| *code >= 1000)?;
        Some((code, rest.split_once('"')?.0.to_owned()))
    });
    found.collect()
}

/// The names in the first cell of every row of every table: `| `name` | …`.
fn first_cells(markdown: &str) -> Names {
    let name = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    markdown.lines().filter_map(name).collect()
}

/// The names that are headings: ``### `name` ``.
fn headings(markdown: &str) -> Names {
    let name = |line: &str| Some(line.strip_prefix("### `")?.strip_suffix('`')?.to_owned());
    markdown.lines().filter_map(name).collect()
}

/// What stands below a heading, up to the next one of its rank.
fn section<'a>(markdown: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = markdown.split_once(heading)?;
    Some(rest.split_once("\n## ").map_or(rest, |(section, _)| section))
}

/// The routes in a text: whatever begins like one and is not part of a longer path.
fn routes(text: &str) -> Vec<String> {
    let ends = |letter: char| letter.is_whitespace() || "`'\"?,;:)|&\\".contains(letter);
    let words = text.split(ends).filter_map(|word| {
        // In commands the address stands in front, or what the colon in it left of it: the port.
        let path = word.strip_prefix("$RELAY").unwrap_or(word);
        let path = path.trim_start_matches(|letter: char| letter.is_ascii_digit());
        let known = ["/api/v1/", "/ws", "/health", "/readyz"].iter().any(|start| path.starts_with(start));
        known.then(|| path.trim_end_matches('.').to_owned())
    });
    words.filter(|path| path != "/ws").collect()
}

/// Whether a path can be made from a template.
fn fits(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    template.clone().count() == path.clone().count()
        && template
            .zip(path)
            .all(|(part, given)| part == given || (part.starts_with('{') && !given.is_empty()))
}
