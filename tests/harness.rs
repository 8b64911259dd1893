//! The harness itself is trusted only where it is seen to fail: the judge rejects a lost acknowledgement
//! and a failure that came back, the client tells "not sent" from "answer lost", and a cut link holds.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use support::load::{judge, Write};
use support::{ports, Client, Failure, Links, Outcome, Request};

fn write(value: &str, outcome: Outcome) -> Write {
    Write { key: "k".into(), value: value.into(), outcome }
}

fn acked(value: &str) -> Write {
    write(value, Outcome::Acked { revision: 1 })
}

fn definite(value: &str) -> Write {
    write(value, Outcome::Definite { status: 503, code: "no_leader".into() })
}

fn unknown(value: &str) -> Write {
    write(value, Outcome::Unknown { why: "504".into() })
}

/// The judge accepts what the answers allow and nothing else.
#[test]
fn judge_holds_the_cluster_to_its_answers() {
    let (a, b, no, maybe) = (acked("a"), acked("b"), definite("no"), unknown("maybe"));
    let unsent = write("unsent", Outcome::NotSent);

    for (writes, found) in [
        (vec![&a], Some("a")),
        (vec![&a, &b], Some("b")),
        (vec![&a, &maybe], Some("a")),
        (vec![&a, &maybe], Some("maybe")),
        (vec![&maybe, &b], Some("maybe")),
        (vec![&maybe], None),
        (vec![&no], None),
        (vec![&a, &no], Some("a")),
    ] {
        assert_eq!(judge(&writes, found), Ok(()), "{writes:?} {found:?}");
    }
    for (writes, found, why) in [
        (vec![&a], None, "is lost"),
        (vec![&a, &b], Some("a"), "was acknowledged after it"),
        (vec![&a, &no], Some("no"), "which was answered"),
        (vec![&no], Some("no"), "which was answered"),
        (vec![&a, &unsent], Some("unsent"), "which was answered"),
        (vec![&a], Some("other"), "which nobody wrote"),
        (vec![&a, &maybe], None, "is lost"),
    ] {
        let complaint = judge(&writes, found).expect_err("must be rejected");
        assert!(complaint.contains(why), "{complaint}");
    }
}

/// A server for one connection that answers each request with the next of `answers`, then closes.
fn canned(answers: Vec<&'static [u8]>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for answer in answers {
            if stream.read(&mut [0; 4096]).unwrap() == 0 {
                return;
            }
            stream.write_all(answer).unwrap();
        }
    });
    port
}

/// Bodies of every framing arrive whole on one connection, and a lost answer is no refusal.
#[test]
fn client_reads_every_framing() {
    let port = canned(vec![
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b\r\n\r\n\x00\xff\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 10\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhal",
    ]);
    let mut client = Client::new(port);
    let first = client.send(&Request::get("/")).unwrap();
    assert_eq!(
        (first.status, first.body.as_slice(), first.header("x-a")),
        (200, &b"\x00\xff\n"[..], Some("b"))
    );
    let second = client.send(&Request::put("/", "x")).unwrap();
    assert_eq!((second.status, second.text().as_str()), (201, "abc"));
    let third = client.send(&Request::new("HEAD", "/")).unwrap();
    assert_eq!((third.status, third.body.len()), (404, 0));
    assert!(matches!(client.send(&Request::get("/")), Err(Failure::Lost(_))));
    assert!(matches!(Client::new(ports::free()).send(&Request::get("/")), Err(Failure::NotSent(_))));
}

/// A cut link delivers nothing until it is healed; the other links go on.
#[test]
fn cut_link_holds_its_bytes() {
    let links = Links::default();
    let echo = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = echo.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in echo.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut chunk = [0; 16];
                while let Ok(count @ 1..) = stream.read(&mut chunk) {
                    stream.write_all(&chunk[..count]).unwrap();
                }
            });
        }
    });
    // This process plays node 1, which dials node 0.
    let port = links.open(&[target, target])[0];
    links.set_pid(1, Some(std::process::id()));
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut chunk = [0; 4];

    stream.write_all(b"one.").unwrap();
    stream.read_exact(&mut chunk).unwrap();
    links.cut(&[0], &[1]);
    stream.write_all(b"two.").unwrap();
    stream.read_exact(&mut chunk).expect_err("nothing passes a cut link");
    links.heal();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.read_exact(&mut chunk).unwrap();
    assert_eq!(&chunk, b"two.");
    links.cut(&[1], &[2]);
    stream.write_all(b"3333").unwrap();
    stream.read_exact(&mut chunk).unwrap();
    links.close();
}
