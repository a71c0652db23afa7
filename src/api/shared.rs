//! What holds for many routes, said once: the forms of their parameters, and the refusals that any of them may give.

use utoipa::openapi::{
    Content, Object, ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Response, Schema,
    header::HeaderBuilder,
    path::{Operation, Parameter, ParameterIn},
    schema::{AdditionalProperties, KnownFormat, SchemaFormat, SchemaType, Type},
};

/// The problem that every refusal is.
const PROBLEM: &str = "Problem";

/// A UUID, hyphenated, in either case.
const UUID: &str = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}";

/// A refusal that many routes share: its status, its words, and which routes give it.
struct Refusal {
    status: &'static str,
    says: &'static str,
    of: fn(&Operation) -> bool,
}

const REFUSALS: [Refusal; 9] = [
    Refusal { status: "400", says: "`bad-field`, `bad-json`: malformed", of: has_input },
    Refusal { status: "401", says: "`no-token`, `bad-token`", of: is_secured },
    Refusal { status: "403", says: "`not-you`, in open mode `open-mode-local-only`", of: is_secured },
    Refusal { status: "404", says: "`not-found`: absent, or not for this caller", of: names_something },
    Refusal { status: "408", says: "`request-timeout`: the body did not come in time", of: has_body },
    Refusal { status: "413", says: "`too-large`", of: has_body },
    Refusal { status: "415", says: "`unsupported-media-type`: a body is application/json", of: has_body },
    Refusal { status: "429", says: "`rate-limited`, `blocked`: wait", of: asks_the_store },
    Refusal {
        status: "503",
        says: "`store-unavailable`, `overloaded`: repeat the request",
        of: asks_the_store,
    },
];

/// Says of every route what it shares with others.
pub(super) fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for operation in operations(item) {
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter {
                    form(path, parameter);
                }
            }
            for refusal in &REFUSALS {
                if (refusal.of)(operation) {
                    refuse(operation, refusal);
                }
            }
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response {
                    answer(status, response);
                }
            }
        }
    }
    let components = document.components.get_or_insert_default();
    for schema in components.schemas.values_mut() {
        let RefOr::T(Schema::Object(object)) = schema else { continue };
        for (name, field) in &mut object.properties {
            if let RefOr::T(Schema::Object(field)) = field {
                known(name, field);
            }
        }
    }
    components.schemas.insert(PROBLEM.to_owned(), problem());
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

fn has_body(operation: &Operation) -> bool {
    operation.request_body.is_some()
}

fn has_input(operation: &Operation) -> bool {
    has_body(operation) || operation.parameters.iter().flatten().next().is_some()
}

fn is_secured(operation: &Operation) -> bool {
    operation.security.is_some()
}

fn asks_the_store(operation: &Operation) -> bool {
    is_secured(operation) || has_body(operation)
}

fn names_something(operation: &Operation) -> bool {
    let in_path = |parameter: &RefOr<Parameter>| {
        matches!(parameter, RefOr::T(Parameter { parameter_in: ParameterIn::Path, .. }))
    };
    operation.parameters.iter().flatten().any(in_path)
}

/// Adds a refusal, or its words to one that the route describes without any.
fn refuse(operation: &mut Operation, refusal: &Refusal) {
    let known = operation.responses.responses.entry(refusal.status.to_owned());
    let known = known.or_insert_with(|| Response::new("").into());
    if let RefOr::T(response) = known
        && response.description.is_empty()
    {
        refusal.says.clone_into(&mut response.description);
    }
}

/// What every answer carries, and every refusal.
fn answer(status: &str, response: &mut Response) {
    let mut carries = |name: &str, kind: Type, says: &str| {
        let schema = ObjectBuilder::new().schema_type(kind).build();
        let header = HeaderBuilder::new().schema(Some(schema)).description(Some(says)).build();
        response.headers.insert(name.to_owned(), header.into());
    };
    carries("x-request-id", Type::String, "names the request in logs");
    match status {
        "401" => carries("www-authenticate", Type::String, "Bearer"),
        "429" | "503" => carries("retry-after", Type::Integer, "seconds"),
        _ => {}
    }
    if status.starts_with(['4', '5']) {
        let content = Content::new(Some(Ref::from_schema_name(PROBLEM)));
        response.content.clear();
        response.content.insert("application/problem+json".to_owned(), content.into());
    }
}

/// The body of every refusal (RFC 9457). More members come with some codes.
fn problem() -> RefOr<Schema> {
    let text = |says: &str| ObjectBuilder::new().schema_type(Type::String).description(Some(says));
    let status = ObjectBuilder::new().schema_type(Type::Integer).description(Some("the status again"));
    let mut object = ObjectBuilder::new()
        .description(Some("why a request was refused, or failed; proto-docs/problems.md"))
        .additional_properties(Some(AdditionalProperties::FreeForm(true)));
    for (name, member) in [
        ("type", text("a URN of the code")),
        ("title", text("the status in words")),
        ("status", status),
        ("detail", text("what is wrong with this request")),
        ("error", text("the detail again, for old scripts")),
        ("code", text("stable: what to act on")),
        ("request_id", text("x-request-id again")),
    ] {
        object = object.property(name, member).required(name);
    }
    object.build().into()
}

/// The form of a parameter, which has its name wherever it occurs.
fn form(path: &str, parameter: &mut Parameter) {
    let Some(RefOr::T(Schema::Object(object))) = &mut parameter.schema else { return };
    // Absent is not null: there is no null in a path, a query or a header.
    if let SchemaType::Array(kinds) = &object.schema_type {
        let kind = kinds.iter().find(|kind| **kind != Type::Null).cloned();
        object.schema_type = kind.map_or(SchemaType::AnyValue, SchemaType::Type);
    }
    match parameter.name.as_str() {
        "user_id" if path.ends_with("/register/{user_id}") => uuid(object),
        "user_id" | "sender_id" | "creator_id" | "added_by" | "removed_by" => {
            object.pattern = Some(format!("^(me|{UUID})$"));
        }
        "group_id" | "message_id" | "invite_id" | "conversation_id" => uuid(object),
        "after" if object.schema_type == SchemaType::Type(Type::String) => uuid(object),
        "limit" => within(object, 1, 100),
        name => known(name, object),
    }
}

/// The form of what has one name in parameters and bodies.
fn known(name: &str, object: &mut Object) {
    match name {
        "device_id" | "sender_device_id" => object.pattern = Some("^[A-Za-z0-9._-]{1,64}$".to_owned()),
        "registration_id" => within(object, 1, 16_383),
        "device_number" | "sender_device_number" => within(object, 1, 127),
        "expires_in_seconds" => within(object, 1, 2_592_000),
        _ => {}
    }
}

fn within(object: &mut Object, least: i64, most: i64) {
    (object.minimum, object.maximum) = (Some(least.into()), Some(most.into()));
}

fn uuid(object: &mut Object) {
    object.format = Some(SchemaFormat::KnownFormat(KnownFormat::Uuid));
    object.pattern = Some(format!("^{UUID}$"));
}
