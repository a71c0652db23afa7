//! The OpenAPI document as a page for people: HTML and a style, no script, nothing from elsewhere.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

const STYLE: &str = include_str!("docs.css");

/// Methods in the order in which they are shown.
const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

/// A page, and what a browser may do with it.
pub(super) struct Page {
    pub(super) html: String,
    /// Its `Content-Security-Policy`: its own style, and nothing else.
    pub(super) policy: String,
}

/// A route with one method.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    told: &'a Value,
}

impl Operation<'_> {
    fn id(&self) -> String {
        format!("op-{}", escape(text(&self.told["operationId"])))
    }

    fn title(&self) -> String {
        let method = self.method.to_uppercase();
        format!("<span class=\"method\">{method}</span> <code>{}</code>", escape(self.path))
    }
}

/// The page for a document.
pub(super) fn page(document: &Value) -> Page {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let info = &document["info"];
    let title = escape(&format!("{} {}", text(&info["title"]), text(&info["version"])));
    let (operations, tags) = (operations(document), list(&document["tags"]));
    let contents: String = tags.iter().map(|tag| contents(tag, &operations)).collect();
    let chapters: String = tags.iter().map(|tag| chapter(tag, &operations)).collect();
    let schemas: String = entries(&document["components"]["schemas"]).map(schema).collect();
    let html = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<header>\n<h1>{title}</h1>\n<p>{}</p>\n\
         <p><a href=\"/api/v1/openapi.json\">The same as an OpenAPI document</a></p>\n</header>\n\
         <nav>\n{contents}<p><a href=\"#schemas\">Schemas</a></p>\n</nav>\n\
         <main>\n{chapters}<section id=\"schemas\">\n<h2>Schemas</h2>\n{schemas}</section>\n</main>\n</body>\n</html>\n",
        prose(&info["description"]),
    );
    Page { html, policy }
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut found = Vec::new();
    for (path, item) in entries(&document["paths"]) {
        for method in METHODS {
            if let Some(told) = item.get(method) {
                found.push(Operation { method, path, told });
            }
        }
    }
    found
}

fn of_tag<'a>(tag: &'a Value, operations: &'a [Operation<'a>]) -> impl Iterator<Item = &'a Operation<'a>> {
    operations.iter().filter(|operation| list(&operation.told["tags"]).contains(&tag["name"]))
}

fn contents(tag: &Value, operations: &[Operation<'_>]) -> String {
    let lines: String = of_tag(tag, operations).map(line).collect();
    format!("<h2>{}</h2>\n<ul>\n{lines}</ul>\n", prose(&tag["description"]))
}

fn line(operation: &Operation<'_>) -> String {
    let summary = prose(&operation.told["summary"]);
    format!("<li><a href=\"#{}\">{}</a> {summary}</li>\n", operation.id(), operation.title())
}

fn chapter(tag: &Value, operations: &[Operation<'_>]) -> String {
    let routes: String = of_tag(tag, operations).map(route).collect();
    format!("<section>\n<h2>{}</h2>\n{routes}</section>\n", prose(&tag["description"]))
}

fn body((kind, content): (&String, &Value)) -> String {
    format!("<p><code>{}</code>: {}</p>\n", escape(kind), kind_of(&content["schema"]))
}

fn route(operation: &Operation<'_>) -> String {
    let told = operation.told;
    let login =
        if told.get("security").is_some() { "<p class=\"soft\">Needs a bearer token.</p>\n" } else { "" };
    let parameters: String = list(&told["parameters"]).iter().map(parameter).collect();
    let parameters = table("Parameters", "<th>Name</th><th>In</th><th>Type</th><th></th>", &parameters);
    let bodies: String = entries(&told["requestBody"]["content"]).map(body).collect();
    let body = if bodies.is_empty() { bodies } else { format!("<h4>Body</h4>\n{bodies}") };
    let answers: String = entries(&told["responses"]).map(answer).collect();
    let answers = table("Answers", "<th>Status</th><th>Type</th><th></th>", &answers);
    format!(
        "<article id=\"{}\">\n<h3>{}</h3>\n{}{}{login}{parameters}{body}{answers}</article>\n",
        operation.id(),
        operation.title(),
        paragraph(&told["summary"]),
        paragraph(&told["description"]),
    )
}

fn parameter(parameter: &Value) -> String {
    let optional = if parameter["required"] == true { "" } else { " <span class=\"soft\">optional</span>" };
    format!(
        "<tr><td><code>{}</code>{optional}</td><td>{}</td><td>{}</td><td>{}</td></tr>\n",
        escape(text(&parameter["name"])),
        escape(text(&parameter["in"])),
        kind_of(&parameter["schema"]),
        prose(&parameter["description"]),
    )
}

fn answer((status, told): (&String, &Value)) -> String {
    let kinds: Vec<_> = entries(&told["content"]).map(|(_, content)| kind_of(&content["schema"])).collect();
    let (kinds, words) = (kinds.join(" or "), prose(&told["description"]));
    format!("<tr><td><code>{}</code></td><td>{kinds}</td><td>{words}</td></tr>\n", escape(status))
}

fn schema((name, told): (&String, &Value)) -> String {
    let name = escape(name);
    let shape =
        if told.get("properties").is_some() || told.get("oneOf").is_some() || told.get("allOf").is_some() {
            parts(told)
        } else {
            format!("<p>{}</p>\n", kind_of(told))
        };
    format!(
        "<article id=\"schema-{name}\">\n<h3>{name}</h3>\n{}{shape}</article>\n",
        paragraph(&told["description"])
    )
}

/// The fields of an object, or of each of the objects that make it up.
fn parts(told: &Value) -> String {
    let each = |word: &str, parts: &[Value]| {
        let described = parts.iter().map(|part| {
            let own = if part.get("properties").is_some() { parts_of_object(part) } else { String::new() };
            let kind = if own.is_empty() { format!("<p>{}</p>\n", kind_of(part)) } else { own };
            format!("<h4>{word}</h4>\n{}{kind}", paragraph(&part["description"]))
        });
        described.collect::<String>()
    };
    match (told["oneOf"].as_array(), told["allOf"].as_array()) {
        (Some(parts), _) => each("Either", parts),
        (None, Some(parts)) => each("All of", parts),
        (None, None) => parts_of_object(told),
    }
}

fn parts_of_object(told: &Value) -> String {
    let required = list(&told["required"]);
    let row = |(name, field): (&String, &Value)| {
        let is_required = required.iter().any(|other| other == name);
        let optional = if is_required { "" } else { " <span class=\"soft\">optional</span>" };
        let (name, kind, words) = (escape(name), kind_of(field), prose(&field["description"]));
        format!("<tr><td><code>{name}</code>{optional}</td><td>{kind}</td><td>{words}</td></tr>\n")
    };
    let rows: String = entries(&told["properties"]).map(row).collect();
    table("", "<th>Field</th><th>Type</th><th></th>", &rows)
}

/// What kind of value a schema asks for, in one line.
fn kind_of(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        let name = escape(name);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    for (members, word) in [("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")] {
        if let Some(parts) = schema[members].as_array() {
            return parts.iter().map(kind_of).collect::<Vec<_>>().join(word);
        }
    }
    let words: Vec<_> =
        list(&schema["enum"]).iter().map(|word| format!("<code>{}</code>", escape(text(word)))).collect();
    if !words.is_empty() {
        return words.join(" | ");
    }
    let types = match &schema["type"] {
        Value::Array(types) => types.iter().map(text).collect::<Vec<_>>(),
        one => vec![text(one)],
    };
    types.into_iter().map(|kind| plain_kind(kind, schema)).collect::<Vec<_>>().join(" or ")
}

fn plain_kind(kind: &str, schema: &Value) -> String {
    match (kind, schema.get("items"), schema.get("additionalProperties"), schema["format"].as_str()) {
        ("", _, _, _) => "anything".into(),
        ("array", Some(items), _, _) => format!("list of {}", kind_of(items)),
        ("object", _, Some(values), _) if values.is_object() => format!("object of {}", kind_of(values)),
        (kind, _, _, Some(format)) => format!("{} ({})", escape(kind), escape(format)),
        (kind, ..) => escape(kind),
    }
}

/// A table under a heading; nothing without rows.
fn table(heading: &str, head: &str, rows: &str) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let heading = if heading.is_empty() { String::new() } else { format!("<h4>{heading}</h4>\n") };
    format!("{heading}<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n")
}

fn paragraph(words: &Value) -> String {
    let words = prose(words);
    if words.is_empty() { words } else { format!("<p>{words}</p>\n") }
}

/// A text in which what stands between backticks is code.
fn prose(words: &Value) -> String {
    let words = escape(text(words));
    let parts: Vec<_> = words.split('`').collect();
    if parts.len() % 2 == 0 {
        return words;
    }
    let shown = parts.iter().enumerate().map(|(index, part)| match index % 2 {
        0 => (*part).to_owned(),
        _ => format!("<code>{part}</code>"),
    });
    shown.collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_document_says_is_escaped() {
        let evil = "</style><script>alert('\"&')</script>";
        let document = json!({
            "info": {"title": evil, "version": "1", "description": evil},
            "tags": [{"name": evil, "description": evil}],
            "paths": {evil: {"get": {
                "tags": [evil],
                "operationId": evil,
                "summary": evil,
                "parameters": [{"name": evil, "in": evil, "description": evil, "schema": {"enum": [evil]}}],
                "responses": {evil: {"description": evil, "content": {evil: {"schema": {"$ref": evil}}}}},
            }}},
            "components": {"schemas": {evil: {"properties": {evil: {"type": evil, "format": evil}}}}},
        });
        let page = page(&document).html;
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert_eq!(page.matches("</style>").count(), 1);
        assert!(page.matches("&lt;script&gt;").count() >= 14, "{page}");
    }

    #[test]
    fn kinds_are_told_in_one_line() {
        for (schema, told) in [
            (json!({"type": "string", "format": "uuid"}), "string (uuid)"),
            (json!({"type": ["string", "null"]}), "string or null"),
            (
                json!({"type": "array", "items": {"$ref": "#/components/schemas/Time"}}),
                "list of <a href=\"#schema-Time\">Time</a>",
            ),
            (json!({"oneOf": [{"type": "null"}, {"type": "integer"}]}), "null or integer"),
            (json!({"type": "object", "additionalProperties": {"type": "boolean"}}), "object of boolean"),
            (json!({"type": "string", "enum": ["a", "b"]}), "<code>a</code> | <code>b</code>"),
            (json!({}), "anything"),
        ] {
            assert_eq!(kind_of(&schema), told);
        }
    }

    #[test]
    fn what_stands_between_backticks_is_code() {
        assert_eq!(prose(&json!("a `b<` c")), "a <code>b&lt;</code> c");
        assert_eq!(prose(&json!("a ` b")), "a ` b");
    }
}
