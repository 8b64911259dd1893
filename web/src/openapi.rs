//! `GET /openapi.json`: the contract as OpenAPI 3.1, made of the tables by which requests are served.
//!
//! Paths and methods are those of [`Route`], codes and statuses those of [`Code`], limits those of the vocabulary. What a
//! route takes and answers is said here, for each method that it answers: a test holds that to the table of routes.

use std::sync::LazyLock;

use bytes::Bytes;
use serde_json::{json, Map, Value};
use vaultdb_kv::limits::{
    IDEMPOTENCY_KEY_BYTES_MAX, KEY_BYTES_MAX, LIST_ITEMS_DEFAULT, LIST_ITEMS_MAX, NODE_NAME_BYTES_MAX,
    REQUEST_TIMEOUT_MS_DEFAULT, REQUEST_TIMEOUT_MS_MAX,
};

use crate::problem::Code;
use crate::reply::{Media, Reply};
use crate::route::{Route, Verb};

static DOCUMENT: LazyLock<Bytes> =
    LazyLock::new(|| serde_json::to_vec(&document()).expect("plain data always serialises").into());

pub(crate) fn reply() -> Reply {
    Reply::new(Media::Json, DOCUMENT.clone())
}

/// What a body is.
#[derive(Debug, Clone, Copy)]
enum Body {
    /// JSON of the schema of that name.
    Json(&'static str),
    /// The same, one a line.
    Lines(&'static str),
    Problem,
    Other(Media),
}

impl Body {
    fn media(self) -> Media {
        match self {
            Body::Json(_) => Media::Json,
            Body::Lines(_) => Media::Ndjson,
            Body::Problem => Media::Problem,
            Body::Other(media) => media,
        }
    }

    fn schema(self) -> Option<&'static str> {
        match self {
            Body::Json(name) | Body::Lines(name) => Some(name),
            Body::Problem => Some("Problem"),
            Body::Other(_) => None,
        }
    }
}

/// What one method of a route takes and answers.
struct Operation {
    summary: &'static str,
    /// Names under `components.parameters`.
    parameters: &'static [&'static str],
    takes: Option<Body>,
    /// Each status, with all that it may carry.
    answers: &'static [(u16, &'static [Body])],
    /// Besides those of every route.
    codes: &'static [&'static [Code]],
}

const READ: [&str; 4] = ["consistency", "max_staleness", "min_revision", "timeout"];
const READ_CODES: [Code; 4] = [Code::NoLeader, Code::TooStale, Code::Behind, Code::Starting];
const READ_KEY: [&str; 5] = ["consistency", "max_staleness", "min_revision", "timeout", "if_none_match_read"];
const KEY_CODES: [Code; 3] = [Code::InvalidKey, Code::KeyTooLarge, Code::KeyNotFound];
const WRITE_KEY: [&str; 6] = ["timeout", "ack", "redirect", "if_match", "if_none_match", "idempotency_key"];
const WRITE_CODES: [Code; 13] = [
    Code::InvalidKey,
    Code::RequestTimeout,
    Code::PreconditionFailed,
    Code::IdempotencyKeyReused,
    Code::KeyTooLarge,
    Code::ValueTooLarge,
    Code::BatchTooLarge,
    Code::UnsupportedMediaType,
    Code::NoLeader,
    Code::Behind,
    Code::Starting,
    Code::OutcomeUnknown,
    Code::OutOfSpace,
];
const ADMIN_CODES: [Code; 8] = [
    Code::InvalidJson,
    Code::BodyTooLarge,
    Code::NoSuchMember,
    Code::Conflict,
    Code::WouldLoseQuorum,
    Code::NoLeader,
    Code::Starting,
    Code::OutcomeUnknown,
];
const FAULT_CODES: [Code; 6] = [
    Code::InvalidJson,
    Code::BodyTooLarge,
    Code::NoSuchRoute,
    Code::NoSuchMember,
    Code::Conflict,
    Code::OutcomeUnknown,
];
/// What any request may meet.
const COMMON_CODES: [Code; 5] =
    [Code::InvalidParameter, Code::MalformedRequest, Code::HeadTooLarge, Code::Overloaded, Code::Internal];
const TEXT: &[Body] = &[Body::Other(Media::Text)];

/// `None` where the route does not answer the method. `HEAD` is as `GET`.
fn operation(route: Route, verb: Verb) -> Option<Operation> {
    let read =
        |summary, parameters, answers, codes| Operation { summary, parameters, takes: None, answers, codes };
    let ordered = |summary, takes, answers, codes| Operation {
        summary,
        parameters: &["timeout"],
        takes,
        answers,
        codes,
    };
    Some(match (route, verb) {
        (Route::Keys, Verb::Post) => Operation {
            summary: "Sets pairs in one atomic write",
            parameters: &["timeout", "ack", "redirect", "idempotency_key"],
            takes: Some(Body::Json("Pairs")),
            answers: &[(200, &[Body::Json("Written")]), (202, &[Body::Json("Accepted")]), (307, &[])],
            codes: &[&WRITE_CODES, &[Code::InvalidJson]],
        },
        (Route::Key, Verb::Get | Verb::Head) => read(
            "Reads a key, as text",
            &READ_KEY,
            &[(200, &[Body::Json("Pairs")]), (304, &[])],
            &[&KEY_CODES, &READ_CODES, &[Code::NotText]],
        ),
        (Route::Kv, Verb::Get | Verb::Head) => read(
            "Reads a key",
            &READ_KEY,
            &[(200, &[Body::Other(Media::Raw)]), (304, &[])],
            &[&KEY_CODES, &READ_CODES],
        ),
        (Route::Kv, Verb::Put) => Operation {
            summary: "Sets a key to the bytes of the body",
            parameters: &WRITE_KEY,
            takes: Some(Body::Other(Media::Raw)),
            answers: &[(200, &[Body::Json("Written")]), (202, &[Body::Json("Accepted")]), (307, &[])],
            codes: &[&WRITE_CODES],
        },
        (Route::Key | Route::Kv, Verb::Delete) => Operation {
            summary: "Deletes a key",
            parameters: &WRITE_KEY,
            takes: None,
            answers: &[(200, &[Body::Json("Deleted")]), (202, &[Body::Json("Accepted")]), (307, &[])],
            codes: &[&WRITE_CODES],
        },
        (Route::List, Verb::Get | Verb::Head) => read(
            "Lists keys in pages of one revision, or all of them as a stream",
            &[
                "prefix",
                "start",
                "end",
                "limit",
                "reverse",
                "keys_only",
                "cursor",
                "consistency",
                "max_staleness",
                "min_revision",
                "timeout",
            ],
            &[(200, &[Body::Json("Listing"), Body::Lines("Item")])],
            &[&READ_CODES, &[Code::CursorExpired]],
        ),
        (Route::Snapshot, Verb::Get | Verb::Head) => read(
            "Streams a backup of one revision",
            &READ,
            &[(200, &[Body::Other(Media::Raw)])],
            &[&READ_CODES],
        ),
        (Route::Writes, Verb::Get | Verb::Head) => read(
            "Tells what became of a write that was answered early",
            &READ,
            &[(200, &[Body::Json("WriteState")])],
            &[&READ_CODES, &[Code::WriteNotKnown]],
        ),
        (Route::Status, Verb::Get | Verb::Head) => read(
            "Tells what this node knows of itself and its cluster",
            &[],
            &[(200, &[Body::Json("Status")])],
            &[],
        ),
        (Route::Join, Verb::Post) => ordered(
            "Adds a node as a learner",
            Some(Body::Json("JoinOrder")),
            &[(200, &[Body::Json("Joined")])],
            &[&ADMIN_CODES],
        ),
        (Route::Members, Verb::Get | Verb::Head) => {
            read("Lists the members", &["timeout"], &[(200, &[Body::Json("Members")])], &[&[Code::Starting]])
        }
        (Route::Member, Verb::Delete) => {
            ordered("Removes a member", None, &[(200, &[Body::Json("Removed")])], &[&ADMIN_CODES])
        }
        (Route::Promote, Verb::Post) => {
            ordered("Makes a learner a voter", None, &[(200, &[Body::Json("Promoted")])], &[&ADMIN_CODES])
        }
        (Route::Leader, Verb::Post) => ordered(
            "Moves leadership",
            Some(Body::Json("LeaderOrder")),
            &[(200, &[Body::Json("NewLeader")])],
            &[&ADMIN_CODES],
        ),
        (Route::Faults | Route::MemberFaults, Verb::Get | Verb::Head) => {
            read("Lists the faults that are on", &[], &[(200, &[Body::Json("Faults")])], &[&FAULT_CODES])
        }
        (Route::Faults | Route::MemberFaults, Verb::Post) => ordered(
            "Injects a fault",
            Some(Body::Json("FaultOrder")),
            &[(200, &[Body::Json("Fault")])],
            &[&FAULT_CODES],
        ),
        (Route::Faults | Route::MemberFaults, Verb::Delete) => {
            ordered("Ends all faults", None, &[(200, &[Body::Json("Cleared")])], &[&FAULT_CODES])
        }
        (Route::Fault, Verb::Delete) => {
            ordered("Ends a fault", None, &[(200, &[Body::Json("Cleared")])], &[&FAULT_CODES])
        }
        (Route::Livez, Verb::Get | Verb::Head) => read(
            "Tells whether the process and its own store answer",
            &["timeout", "verbose"],
            &[(200, TEXT)],
            &[&[Code::Starting]],
        ),
        (Route::Readyz, Verb::Get | Verb::Head) => read(
            "Tells whether a linearizable read succeeds and the node is a voter",
            &["timeout", "verbose"],
            &[(200, TEXT)],
            &[&[Code::NoLeader, Code::Starting]],
        ),
        (Route::Metrics, Verb::Get | Verb::Head) => {
            read("Figures of this node, for Prometheus", &[], &[(200, &[Body::Other(Media::Metrics)])], &[])
        }
        (Route::Events, Verb::Get | Verb::Head) => read(
            "What this node's supervisor saw and did, once or live",
            &["since"],
            &[(200, &[Body::Json("Events"), Body::Other(Media::EventStream)])],
            &[],
        ),
        (Route::Observation, Verb::Get | Verb::Head) => read(
            "What this node tells those that gather the cluster",
            &["since", "figures_since_ms"],
            &[(200, &[Body::Json("Observation")])],
            &[],
        ),
        (Route::Cluster, Verb::Get | Verb::Head) => read(
            "The whole cluster as this node gathers it, once or live",
            &[],
            &[(200, &[Body::Json("Cluster"), Body::Other(Media::EventStream)])],
            &[&[Code::Starting]],
        ),
        (Route::OpenApi, Verb::Get | Verb::Head) => {
            read("This document", &[], &[(200, &[Body::Other(Media::Json)])], &[])
        }
        (Route::Home, Verb::Get | Verb::Head) => {
            read("The dashboard", &[], &[(200, &[Body::Other(Media::Html)])], &[])
        }
        _ => return None,
    })
}

fn document() -> Value {
    let mut paths = Map::new();
    for route in Route::ALL {
        let mut item = Map::new();
        for verb in Verb::ALL {
            if let Some(operation) = operation(route, verb) {
                item.insert(verb.as_str().to_ascii_lowercase(), operation.describe(route, verb));
            }
        }
        if !item.is_empty() {
            paths.insert(route.pattern().to_owned(), item.into());
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "VaultDB",
            "summary": "A strongly consistent, replicated key-value store. Any node takes any request.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas(), "parameters": parameters(), "headers": headers()},
    })
}

impl Operation {
    fn describe(&self, route: Route, verb: Verb) -> Value {
        let mut responses = Map::new();
        for (status, bodies) in self.answers {
            let description = match status {
                200 => "Done",
                202 => "Accepted by the leader, and not durable",
                304 => "The key is still at the revision of If-None-Match",
                307 => "With redirect=true: another node leads, see Location",
                _ => "Answered",
            };
            responses.insert(
                status.to_string(),
                response(description, if verb == Verb::Head { &[] } else { bodies }),
            );
        }
        for code in COMMON_CODES.iter().chain(self.codes.iter().copied().flatten()) {
            let status = code.status().as_u16().to_string();
            let name = code.as_str();
            match responses.get_mut(&status) {
                Some(known) => {
                    let names = known["description"].as_str().unwrap_or_default();
                    known["description"] = format!("{names}, {name}").into();
                }
                None => {
                    let mut problem = response(name, &[Body::Problem]);
                    if verb == Verb::Head {
                        problem.as_object_mut().map(|fields| fields.remove("content"));
                    }
                    responses.insert(status, problem);
                }
            }
        }
        let in_path = route.pattern().split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let names = in_path.chain(self.parameters.iter().copied());
        let parameters: Vec<Value> =
            names.map(|name| json!({"$ref": format!("#/components/parameters/{name}")})).collect();
        let mut described = json!({
            "operationId": format!("{}{route:?}", verb.as_str().to_ascii_lowercase()),
            "summary": self.summary,
            "parameters": parameters,
            "responses": responses,
        });
        if let Some(body) = &self.takes {
            described["requestBody"] = json!({"required": true, "content": content(&[*body])});
        }
        described
    }
}

/// Errors have the common headers, too; they are told of the other answers only, to keep the document short.
fn response(description: &str, bodies: &[Body]) -> Value {
    let mut response = json!({"description": description});
    if !matches!(bodies, [Body::Problem]) {
        let headers = headers().into_iter();
        let headers =
            headers.map(|(name, _)| (name.clone(), json!({"$ref": format!("#/components/headers/{name}")})));
        response["headers"] = headers.collect::<Map<_, _>>().into();
    }
    if !bodies.is_empty() {
        response["content"] = content(bodies);
    }
    response
}

fn content(bodies: &[Body]) -> Value {
    let described = bodies.iter().map(|body| {
        let described = body.schema().map_or_else(
            || json!({}),
            |name| json!({"schema": {"$ref": format!("#/components/schemas/{name}")}}),
        );
        (body.media().as_str().to_owned(), described)
    });
    described.collect::<Map<_, _>>().into()
}

fn schemas() -> Value {
    let mut schemas: Value =
        serde_json::from_str(include_str!("openapi/schemas.json")).expect("the file is JSON, by a test");
    schemas["Problem"] = json!({
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail", "code"],
        "properties": {
            "type": {"type": "string", "description": "urn:vaultdb:error:<code>"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "code": {"enum": Code::ALL.map(Code::as_str)},
            "applied": {
                "enum": ["no", "unknown"],
                "description": "Of a write: it never takes effect, or it may have or may yet.",
            },
            "leader": {"type": "string"},
            "retry_after_ms": {"type": "integer"},
            "limit": {"type": "integer"},
            "revision": {"$ref": "#/components/schemas/Revision"},
        },
    });
    schemas
}

fn parameters() -> Value {
    let text = || json!({"type": "string"});
    let number = || json!({"type": "integer", "minimum": 0});
    let flag = || json!({"type": "boolean", "default": false});
    let path = [
        ("key", format!("1 to {KEY_BYTES_MAX} bytes, percent-encoded once; `/` needs no encoding."), text()),
        ("name", format!("Name of a member, at most {NODE_NAME_BYTES_MAX} bytes."), text()),
        ("id", "Id of a fault.".to_owned(), number()),
        ("term", "Of the early answer.".to_owned(), number()),
        ("log_index", "Of the early answer.".to_owned(), number()),
    ];
    let timeout = format!(
        "How long the request may take, such as `500ms` or `5s`: at most {} s.",
        REQUEST_TIMEOUT_MS_MAX / 1000
    );
    let query = [
        (
            "timeout",
            timeout,
            json!({"type": "string", "default": format!("{}s", REQUEST_TIMEOUT_MS_DEFAULT / 1000)}),
        ),
        (
            "consistency",
            "What the read sees.".to_owned(),
            json!({"enum": ["linearizable", "lease", "stale"], "default": "linearizable"}),
        ),
        (
            "max_staleness",
            "With `stale`: the longest that acknowledged writes may be missing.".to_owned(),
            text(),
        ),
        ("min_revision", "Waits until the node's store has reached this revision.".to_owned(), number()),
        (
            "ack",
            "When a write is answered.".to_owned(),
            json!({"enum": ["majority", "leader"], "default": "majority"}),
        ),
        ("redirect", "A node that does not lead answers 307 instead of forwarding.".to_owned(), flag()),
        ("verbose", "Lists each check.".to_owned(), json!({"type": "string"})),
        ("prefix", "Keys that begin with this.".to_owned(), text()),
        ("start", "The first key, inclusive.".to_owned(), text()),
        ("end", "The last key, exclusive.".to_owned(), text()),
        (
            "limit",
            "Most items of a page.".to_owned(),
            json!({"type": "integer", "minimum": 1, "maximum": LIST_ITEMS_MAX, "default": LIST_ITEMS_DEFAULT}),
        ),
        ("reverse", "From the last key to the first.".to_owned(), flag()),
        ("keys_only", "Without values.".to_owned(), flag()),
        ("cursor", "`next` of the page before.".to_owned(), text()),
        ("since", "Events after this one.".to_owned(), number()),
        ("figures_since_ms", "Figures after this Unix time.".to_owned(), number()),
    ];
    let tags = "Revisions in quotes, or `*`.";
    let header = [
        (
            "if_match",
            "If-Match",
            format!("{tags} The write takes effect only if the key is present so."),
            text(),
        ),
        (
            "if_none_match",
            "If-None-Match",
            format!("{tags} The write takes effect only if the key is not present so."),
            text(),
        ),
        ("if_none_match_read", "If-None-Match", format!("{tags} 304 if the key is present so."), text()),
        (
            "idempotency_key",
            "Idempotency-Key",
            "Names the request, so that it may be repeated and is applied once.".to_owned(),
            json!({"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_BYTES_MAX}),
        ),
    ];
    let described = |place: &str, name: &str, description: String, schema: Value| json!({"in": place, "name": name, "required": place == "path", "description": description, "schema": schema});
    let path = path.into_iter().map(|(name, told, schema)| (name, described("path", name, told, schema)));
    let query = query.into_iter().map(|(name, told, schema)| (name, described("query", name, told, schema)));
    let header =
        header.into_iter().map(|(id, name, told, schema)| (id, described("header", name, told, schema)));
    path.chain(query)
        .chain(header)
        .map(|(id, described)| (id.to_owned(), described))
        .collect::<Map<_, _>>()
        .into()
}

fn headers() -> Map<String, Value> {
    let headers = [
        ("Vault-Node", "The node that answered.", "string"),
        ("Vault-Leader", "The leader as that node knows it; absent during an election.", "string"),
        ("Vault-Term", "Its term.", "integer"),
        ("Vault-Revision", "The state that the answer reflects.", "integer"),
        ("Vault-Consistency", "Of reads: the level that was kept.", "string"),
        ("ETag", "Of a key's answer: its revision, in quotes.", "string"),
    ];
    let described = |told: &str, kind: &str| json!({"description": told, "schema": {"type": kind}});
    headers.into_iter().map(|(name, told, kind)| (name.to_owned(), described(told, kind))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The document names each method that a route answers, and none that it refuses.
    #[test]
    fn methods_are_those_of_the_routes() {
        for route in Route::ALL {
            let told = Verb::ALL.into_iter().filter(|verb| operation(route, *verb).is_some());
            let mut told: Vec<_> = told.map(Verb::as_str).collect();
            let mut answered: Vec<_> = route.allow().split(", ").filter(|verb| !verb.is_empty()).collect();
            told.sort_unstable();
            answered.sort_unstable();
            assert_eq!(told, answered, "{route:?}");
        }
    }

    /// Each code once, in the order of the discriminants; the last one is the last that there is.
    #[test]
    fn codes_are_all_told() {
        assert!(Code::ALL.iter().enumerate().all(|(i, code)| *code as usize == i));
        assert_eq!(Code::ALL.last(), Some(&Code::Internal));
    }

    /// Nothing is referred to that is not there, and nothing is there in vain.
    #[test]
    fn references_resolve() {
        let document = document();
        let mut told = std::collections::BTreeSet::new();
        let mut todo = vec![&document];
        while let Some(value) = todo.pop() {
            match value {
                Value::Object(fields) => {
                    if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                        let pointer = reference.trim_start_matches('#');
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                        told.insert(pointer.to_owned());
                    }
                    todo.extend(fields.values());
                }
                Value::Array(items) => todo.extend(items),
                _ => {}
            }
        }
        for (kind, named) in document["components"].as_object().expect("an object") {
            for name in named.as_object().expect("an object").keys() {
                assert!(told.contains(&format!("/components/{kind}/{name}")), "{kind}/{name} is of no use");
            }
        }
    }
}
