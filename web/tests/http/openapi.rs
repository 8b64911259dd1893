//! The OpenAPI document says what the server does: its schemas hold for what is answered.

use serde_json::{json, Value};

use crate::server::TestServer;

/// What of `value` is not as `schema` says.
fn faults(document: &Value, schema: &Value, value: &Value, place: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let named = document.pointer(reference.trim_start_matches('#')).unwrap();
        return faults(document, named, value, place);
    }
    let mut found = Vec::new();
    let is = |kind: &Value| match kind.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_u64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{place}: type {other}"),
    };
    let typed = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(is),
        kind => is(kind),
    };
    let one_of = schema["enum"].as_array().is_none_or(|values| values.contains(value));
    let constant = schema.get("const").is_none_or(|constant| constant == value);
    if !(typed && one_of && constant) {
        found.push(format!("{place}: {value} is not {schema}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            found.push(format!("{place}: no {name}"));
        }
    }
    if let (Some(fields), Some(described)) = (value.as_object(), schema["properties"].as_object()) {
        for (name, field) in fields {
            let place = format!("{place}.{name}");
            match described.get(name) {
                Some(schema) => found.extend(faults(document, schema, field, &place)),
                None => found.push(format!("{place} is not described")),
            }
        }
    }
    for item in value.as_array().into_iter().flatten() {
        found.extend(faults(document, &schema["items"], item, &format!("{place}[]")));
    }
    found
}

/// The document of a server, as a client gets it.
fn document(server: &TestServer) -> Value {
    server.get("/openapi.json").ok()
}

/// Each route's answer, and a problem, are as the document says.
#[test]
fn answers_are_as_described() {
    let server = TestServer::start();
    let document = document(&server);
    assert_eq!(document["openapi"], "3.1.0");
    server.put("/v1/kv/bytes", [0xff, 0xfe]).ok();
    let calls: [(&str, &str, &str, &str); 15] = [
        ("POST", "/key", "/key", r#"{"user1":"batman"}"#),
        ("GET", "/key/user1", "/key/{key}", ""),
        ("PUT", "/v1/kv/a", "/v1/kv/{key}", "1"),
        ("GET", "/v1/kv", "/v1/kv", ""),
        ("DELETE", "/v1/kv/a", "/v1/kv/{key}", ""),
        ("DELETE", "/key/user1", "/key/{key}", ""),
        ("PUT", "/v1/kv/a?ack=leader", "/v1/kv/{key}", "1"),
        ("GET", "/status", "/status", ""),
        ("GET", "/v1/members", "/v1/members", ""),
        ("GET", "/v1/events", "/v1/events", ""),
        ("POST", "/v1/faults", "/v1/faults", r#"{"kind":"fsync_delay","delay":"5ms"}"#),
        ("GET", "/v1/faults", "/v1/faults", ""),
        ("DELETE", "/v1/faults", "/v1/faults", ""),
        ("GET", "/v1/kv/absent", "/v1/kv/{key}", ""),
        ("POST", "/v1/leader", "/v1/leader", r#"{"name":7}"#),
    ];
    for (method, target, path, body) in calls {
        let body = (!body.is_empty()).then_some(body.as_bytes());
        let answer = server.call(method, target, "", body);
        let operation = &document["paths"][path][method.to_ascii_lowercase()];
        let response = &operation["responses"][answer.status.to_string()];
        let media = answer.header("content-type").unwrap();
        let schema = &response["content"][media]["schema"];
        assert!(schema.is_object(), "{method} {target}: {} {media} is not in {operation}", answer.status);
        let value = answer.json();
        let found = faults(&document, schema, &value, "");
        assert!(found.is_empty(), "{method} {target}: {found:#?}\n{value}");
    }
}

/// What is not as described is found.
#[test]
fn what_differs_is_found() {
    let document = document(&TestServer::start());
    let schema = json!({"$ref": "#/components/schemas/Deleted"});
    let found = |value: Value| faults(&document, &schema, &value, "").len();
    assert_eq!(found(json!({"deleted": true, "revision": 1})), 0);
    assert_eq!(found(json!({"deleted": 1, "revision": 1})), 1);
    assert_eq!(found(json!({"deleted": true})), 1);
    assert_eq!(found(json!({"deleted": true, "revision": 1, "more": 1})), 1);
    assert_eq!(found(json!([])), 3);
}
