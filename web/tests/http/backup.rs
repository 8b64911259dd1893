//! Backups: what the answer says of itself, and that a part is never taken for the whole.

use std::io::Read;

use vaultdb_kv::backup::Piece;
use vaultdb_kv::{BackupDecoder, BackupHeader, ReadError};

use crate::client::Answer;
use crate::server::TestServer;

/// Enough for several pieces.
const KEYS: usize = 40;

fn filled(value_bytes: usize) -> TestServer {
    let server = TestServer::start();
    for i in 0..KEYS {
        // Bytes that could be taken for a head that ends, at the end of each value.
        let mut value = vec![b'v'; value_bytes];
        value.extend_from_slice(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        server.put(&format!("/v1/kv/{i:02}"), value).ok();
    }
    server
}

/// The head of the answer, and its body as far as it came; `Err` when it came to no end.
fn fetch(server: &TestServer, target: &str, amid: impl FnOnce()) -> (Answer, Result<Vec<u8>, Vec<u8>>) {
    let mut conn = server.conn();
    conn.send("GET", target, "Connection: close\r\n", None);
    let head = conn.read(true);
    amid();
    let mut raw = Vec::new();
    // A connection that is reset has told as much as one that is closed.
    let _ = conn.0.read_to_end(&mut raw);
    let (mut body, mut rest) = (Vec::new(), &raw[..]);
    loop {
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return (head, Err(body)) };
        let size = std::str::from_utf8(&rest[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        rest = &rest[end + 2..];
        if size == 0 {
            return (head, Ok(body));
        }
        if rest.len() < size + 2 {
            return (head, Err(body));
        }
        body.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

fn decode(mut bytes: &[u8]) -> Result<(BackupHeader, usize), String> {
    let mut decoder = BackupDecoder::default();
    let (mut header, mut keys) = (None, 0);
    loop {
        let (next, rest) = bytes.split_at(decoder.wants().min(bytes.len()));
        bytes = rest;
        match decoder.take(next).map_err(|damage| damage.to_string())? {
            None => {}
            Some(Piece::Header(found)) => header = Some(found),
            Some(Piece::Block(records)) => keys += records.len(),
            Some(Piece::End(_)) => return Ok((header.unwrap(), keys)),
        }
    }
}

#[test]
fn a_backup_is_whole_and_says_what_it_is_of() {
    let server = filled(64 << 10);
    let (head, body) = fetch(&server, "/v1/snapshot?consistency=stale", || ());
    head.check_common_headers();
    assert_eq!(head.header("content-type"), Some("application/octet-stream"));
    assert_eq!(head.header("content-disposition"), Some("attachment; filename=\"vaultdb-40.backup\""));
    assert_eq!(
        (head.header("vault-revision"), head.header("vault-consistency")),
        (Some("40"), Some("stale"))
    );
    let (header, keys) = decode(&body.expect("the end of the body")).expect("whole");
    assert_eq!((header.revision, header.term, header.log_index, keys), (40, 3, 140, KEYS));
    assert_eq!((header.cluster_id.as_str(), header.node.as_str()), ("c-1", "node0"));
    let mut conn = server.conn();
    let head = conn.call("HEAD", "/v1/snapshot", "", None);
    assert_eq!((head.status, head.header("vault-revision")), (200, Some("40")));
    server.put("/v1/snapshot", "x").problem(405, "method_not_allowed");
    server.get("/v1/snapshot?consistency=strong").problem(400, "invalid_parameter");
    server.fake.0.read_errors.lock().unwrap().push_back(ReadError::NoLeader);
    server.get("/v1/snapshot").problem(503, "no_leader");
    server.fake.0.starting.store(true, std::sync::atomic::Ordering::SeqCst);
    server.get("/v1/snapshot").problem(503, "starting");
}

/// What goes wrong in the middle cuts the connection, and what came is no backup.
#[test]
fn a_backup_that_is_cut_off_is_none() {
    // More than what a client and the network between take in while nobody reads.
    let server = filled(900 << 10);
    let fail = || {
        let error = ReadError::Store { reason: "bad block".into() };
        server.fake.0.read_errors.lock().unwrap().push_back(error);
    };
    let (_, body) = fetch(&server, "/v1/snapshot", fail);
    let part = body.expect_err("no end of the body");
    assert!(decode(&part).expect_err("a part").contains("cut off"));
    let (_, body) = fetch(&server, "/v1/snapshot", || ());
    assert_eq!(decode(&body.expect("whole")).map(|(_, keys)| keys), Ok(KEYS));
}
