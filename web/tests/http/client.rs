//! A client that sends exactly the bytes it is given and reads exactly one answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// A test that waits longer for an answer has failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let first = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} appears twice in {self:?}");
        first
    }

    pub fn check_common_headers(&self) {
        assert_eq!(self.header("vault-node"), Some("node0"), "{self:?}");
        for name in ["vault-term", "vault-revision"] {
            let value = self.header(name).unwrap_or_else(|| panic!("no {name}: {self:?}"));
            assert!(value.parse::<u64>().is_ok(), "{name}: {value}");
        }
        assert_eq!(self.header("cache-control"), Some("no-store"));
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        self.json()
    }

    /// What must hold for every error, and then that it is this one.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let json = self.json();
        assert_eq!(json["code"], code, "{json}");
        assert_eq!(json["status"], status, "{json}");
        assert_eq!(json["type"], format!("urn:vaultdb:error:{code}"), "{json}");
        for field in ["title", "detail"] {
            assert!(json[field].as_str().is_some_and(|text| !text.is_empty()), "{json}");
        }
        let retry_ms = json.get("retry_after_ms").map(|ms| ms.as_u64().unwrap());
        let retry_s = self.header("retry-after").map(|s| s.parse::<u64>().unwrap());
        assert_eq!(retry_ms.map(|ms| ms.div_ceil(1_000)), retry_s, "{self:?}");
        assert_eq!(retry_ms.is_some(), matches!(status, 429 | 503), "{self:?}");
        json
    }
}

/// One connection.
pub struct Conn(pub TcpStream);

impl Conn {
    pub fn open(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// Sends a request; `head` holds further header lines, each ending in CRLF.
    pub fn send(&mut self, method: &str, target: &str, head: &str, body: Option<&[u8]>) {
        let length = body.map_or(String::new(), |body| format!("Content-Length: {}\r\n", body.len()));
        let mut request = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{length}{head}\r\n").into_bytes();
        request.extend_from_slice(body.unwrap_or_default());
        self.0.write_all(&request).unwrap();
    }

    /// Reads one answer; `head_only` when the request was a HEAD.
    pub fn read(&mut self, head_only: bool) -> Answer {
        let mut bytes = Vec::new();
        let mut byte = [0];
        while !bytes.ends_with(b"\r\n\r\n") {
            self.0.read_exact(&mut byte).unwrap_or_else(|e| panic!("{e} after {}", bytes.escape_ascii()));
            bytes.push(byte[0]);
        }
        let head = String::from_utf8(bytes).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        if status == 100 {
            return self.read(head_only);
        }
        let headers = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        if head_only || status == 304 {
            return answer;
        }
        let length: usize = answer.header("content-length").unwrap().parse().unwrap();
        answer.body.resize(length, 0);
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    pub fn call(&mut self, method: &str, target: &str, head: &str, body: Option<&[u8]>) -> Answer {
        self.send(method, target, head, body);
        self.read(method == "HEAD")
    }

    /// Whether an answer, or the end of the connection, has arrived.
    pub fn is_answered(&mut self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let arrived = self.0.peek(&mut [0]).is_ok();
        self.0.set_nonblocking(false).unwrap();
        arrived
    }

    /// Whether the server closes its side without sending anything more.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}
