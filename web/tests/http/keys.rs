//! Keys in paths: raw bytes, decoded once, never normalised.

use crate::server::TestServer;

/// What is written under an encoded path is the key of exactly those bytes.
#[test]
fn paths_name_bytes() {
    let server = TestServer::start();
    let cases: [(&str, &[u8]); 22] = [
        ("a%2Fb", b"a/b"),
        ("a%2fc", b"a/c"),
        ("a/b/c", b"a/b/c"),
        ("%00", b"\0"),
        ("%0A", b"\n"),
        ("x%0D%0Ay", b"x\r\ny"),
        ("%FF", b"\xff"),
        ("%FF%FE%80", b"\xff\xfe\x80"),
        ("%EF%BF%BD", b"\xef\xbf\xbd"),
        ("%25", b"%"),
        ("%2525", b"%25"),
        ("%252F", b"%2F"),
        ("..", b".."),
        ("../status", b"../status"),
        ("./x", b"./x"),
        ("/", b"/"),
        ("//", b"//"),
        ("a//b", b"a//b"),
        ("slash/", b"slash/"),
        ("a+b%20c", b"a+b c"),
        ("%3F%23", b"?#"),
        ("{key}", b"{key}"),
    ];
    for (path, key) in cases {
        let target = format!("/v1/kv/{path}");
        let value = format!("value of {path}");
        assert_eq!(server.put(&target, &value).status, 200, "{path}");
        assert_eq!(server.fake.value(key).as_deref(), Some(value.as_bytes()), "{path}");
        assert_eq!(server.get(&target).text(), value, "{path}");
    }
    assert_eq!(server.fake.0.map.lock().unwrap().len(), cases.len(), "no two paths share a key");
    for (path, key) in cases {
        assert_eq!(server.delete(&format!("/v1/kv/{path}")).ok()["deleted"], true, "{path}");
        assert_eq!(server.fake.value(key), None);
    }
}

/// A query or an absolute request target is no part of the key.
#[test]
fn other_forms_of_targets() {
    let server = TestServer::start();
    server.put("/v1/kv/k?timeout=1s", "1").ok();
    assert_eq!(server.fake.value(b"k").unwrap(), b"1");
    assert_eq!(server.get("http://elsewhere.example/v1/kv/k").text(), "1");
}

/// `/key/{key}` names the key in its answer, slashes and all.
#[test]
fn seed_route_names_the_key() {
    let server = TestServer::start();
    server.post("/key", r#"{"a/b":"1","%":"2","é":"3"}"#).ok();
    assert_eq!(server.get("/key/a/b").text(), r#"{"a/b":"1"}"#);
    assert_eq!(server.get("/key/a%2Fb").text(), r#"{"a/b":"1"}"#);
    assert_eq!(server.get("/key/%25").text(), r#"{"%":"2"}"#);
    assert_eq!(server.get("/key/%C3%A9").text(), r#"{"é":"3"}"#);
}

/// An empty key, a broken escape and, where JSON must name it, a key that is no text are refused.
#[test]
fn malformed_keys() {
    let server = TestServer::start();
    for target in ["/v1/kv/", "/key/", "/v1/kv/%", "/v1/kv/a%2", "/v1/kv/%zz", "/key/%2g", "/v1/kv/%%20"] {
        let read = server.get(target).problem(400, "invalid_key");
        assert!(read.get("applied").is_none());
        assert_eq!(server.delete(target).problem(400, "invalid_key")["applied"], "no");
    }
    for target in ["/v1/kv/", "/v1/kv/%", "/v1/kv/%+1"] {
        assert_eq!(server.put(target, "v").problem(400, "invalid_key")["applied"], "no");
    }
    server.get("/key/%FF").problem(400, "invalid_key");
    server.delete("/key/%C3").problem(400, "invalid_key");
    assert!(server.fake.0.map.lock().unwrap().is_empty());
}

/// The limit of keys counts decoded bytes and is inclusive.
#[test]
fn key_length() {
    let server = TestServer::start();
    server.put(&format!("/v1/kv/{}", "%41".repeat(4096)), "v").ok();
    let long = format!("/v1/kv/{}", "A".repeat(4097));
    for answer in [server.get(&long), server.put(&long, "v"), server.delete(&long)] {
        assert_eq!(answer.problem(413, "key_too_large")["limit"], 4096);
    }
    let json = format!("{{\"{}\":\"v\"}}", "k".repeat(4097));
    assert_eq!(server.post("/key", json).problem(413, "key_too_large")["limit"], 4096);
}
