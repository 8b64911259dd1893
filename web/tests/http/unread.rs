//! Requests that actix-web refuses before any route sees them: still problems, with the headers.

use std::io::Write;
use std::time::Duration;

use crate::client::{Answer, Conn};
use crate::server::TestServer;

const BARE: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: x\r\n\r\n";

fn refused(conn: &mut Conn, status: u16, code: &str) -> Answer {
    let answer = conn.read(false);
    answer.check_common_headers();
    assert_eq!(answer.problem(status, code)["applied"], "no");
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(conn.is_closed());
    answer
}

/// What is not HTTP/1.1, or not in a form that can be read, is told so, and harms nobody else.
#[test]
fn malformed_requests() {
    let server = TestServer::start();
    let long_target = format!("GET /v1/kv/{} HTTP/1.1\r\nHost: x", "k".repeat(70_000));
    let requests = [
        b"\x16\x03\x01\x02\x00".as_slice(),
        b"GET",
        b"GET / HTTP/9.9\r\nHost: x",
        b"GET / HTTP/1.1",
        b"GET /a b HTTP/1.1\r\nHost: x",
        "GET /key/\u{e9} HTTP/1.1\r\nHost: x".as_bytes(),
        b"GET /key/<a> HTTP/1.1\r\nHost: x",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon",
        b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: x",
        b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2",
        b"POST /key HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked",
        long_target.as_bytes(),
    ];
    for request in requests {
        let mut conn = server.conn();
        conn.0.write_all(request).unwrap();
        conn.0.write_all(b"\r\n\r\n").unwrap();
        refused(&mut conn, 400, "malformed_request");
    }
    let counted = format!("{{route=\"unknown\",method=\"other\",status=\"400\"}} {}", requests.len());
    assert!(server.get("/metrics").text().contains(&counted));
}

/// A good request and a bad one on one connection get an answer each, in their order.
#[test]
fn malformed_after_good() {
    let server = TestServer::start();
    server.put("/v1/kv/a", "1").ok();
    let mut conn = server.conn();
    conn.0.write_all(b"GET /v1/kv/a HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2).as_slice()).unwrap();
    conn.0.write_all(b"GET\r\n\r\n").unwrap();
    assert_eq!(conn.read(false).body, b"1");
    assert_eq!(conn.read(false).body, b"1");
    refused(&mut conn, 400, "malformed_request");
}

/// A body whose framing breaks is refused and nothing is written.
#[test]
fn broken_chunks() {
    let server = TestServer::start();
    let mut conn = server.conn();
    conn.send("PUT", "/v1/kv/a", "Transfer-Encoding: chunked\r\n", None);
    conn.0.write_all(b"3\r\nabc\r\nzz\r\n").unwrap();
    let answer = conn.read(false);
    assert_eq!(answer.problem(400, "invalid_parameter")["applied"], "no");
    assert_eq!(server.fake.value(b"a"), None);
}

/// A head that is too large, or does not arrive in time, ends as a problem.
#[test]
fn heads_too_large_or_too_slow() {
    let server = TestServer::with(|options| options.request_head_timeout = Duration::from_millis(200));
    let mut conn = server.conn();
    conn.0.write_all(b"GET / HTTP/1.1\r\nx: ").unwrap();
    conn.0.write_all(&[b'x'; 140_000]).unwrap();
    let answer = conn.read(false);
    answer.problem(431, "head_too_large");

    let mut slow = server.conn();
    slow.0.write_all(b"GET / HT").unwrap();
    refused(&mut slow, 408, "request_timeout");
}

/// A client's value is never touched, even when it reads like an error of the server's own.
#[test]
fn values_that_look_like_errors() {
    let server = TestServer::start();
    let late = [vec![b'x'; 100_000].as_slice(), BARE].concat();
    for value in [BARE, b"\r\n\r\n", &late] {
        server.put("/v1/kv/a", value).ok();
        let mut conn = server.conn();
        for _ in 0..3 {
            assert_eq!(conn.call("GET", "/v1/kv/a", "", None).body, value);
        }
    }
}
