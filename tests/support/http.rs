//! A small blocking HTTP/1.1 client: binary-safe, keep-alive, every step bounded by one deadline.
//!
//! It tells apart what a caller may conclude: a request that never left ([`Failure::NotSent`]) and one
//! whose answer was lost ([`Failure::Lost`]).

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for an answer unless a request says otherwise.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(12);
/// Longest wait for a connection on loopback.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Not a byte was sent.
    NotSent(String),
    /// It was sent, at least in part; the server may have acted on it.
    Lost(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NotSent(reason) => write!(f, "not sent: {reason}"),
            Failure::Lost(reason) => write!(f, "answer lost: {reason}"),
        }
    }
}

#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// Path and query, as they go over the wire.
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub limit: Duration,
}

impl Request {
    pub fn new(method: &str, target: impl Into<String>) -> Self {
        Self {
            method: method.into(),
            target: target.into(),
            headers: Vec::new(),
            body: Vec::new(),
            limit: ANSWER_LIMIT,
        }
    }

    pub fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    pub fn put(target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::new("PUT", target).body(body)
    }

    /// As curl's `-d` sends it: with the content type of a form.
    pub fn post(target: impl Into<String>, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", target).body(body).header("Content-Type", "application/x-www-form-urlencoded")
    }

    pub fn delete(target: impl Into<String>) -> Self {
        Self::new("DELETE", target)
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The bytes of the request.
    pub fn wire(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\nHost: localhost\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        let chunked = self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("transfer-encoding"));
        if !chunked && (!self.body.is_empty() || matches!(self.method.as_str(), "PUT" | "POST")) {
            out.extend_from_slice(format!("Content-Length: {}\r\n", self.body.len()).as_bytes());
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    /// In the order of arrival, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics with the body when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {:?}", self.status, self.text()))
    }

    /// The `code` of a problem, empty when the body is none.
    pub fn code(&self) -> String {
        self.field("code")
    }

    /// The `applied` of a problem, empty when there is none.
    pub fn applied(&self) -> String {
        self.field("applied")
    }

    fn field(&self, name: &str) -> String {
        serde_json::from_slice::<Value>(&self.body)
            .ok()
            .and_then(|json| json.get(name)?.as_str().map(str::to_owned))
            .unwrap_or_default()
    }
}

/// One client of one port. Keeps its connection while the server does.
pub struct Client {
    address: SocketAddr,
    stream: Option<TcpStream>,
}

impl Client {
    pub fn new(port: u16) -> Self {
        Self { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), stream: None }
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// [`Failure`], sorted by what may have happened.
    pub fn send(&mut self, request: &Request) -> Result<Response, Failure> {
        let end = Instant::now() + request.limit;
        if self.stream.as_ref().is_some_and(closed_by_peer) {
            self.stream = None;
        }
        self.connect()?;
        let stream = self.stream.as_mut().expect("connected just now");
        let sent = send_all(stream, &request.wire(), end);
        // A server may answer and close before it has read the whole body.
        let answer = read_response(stream, request.method == "HEAD", end);
        match (answer, sent) {
            (Ok((response, keep)), sent) => {
                if !keep || sent.is_err() {
                    self.stream = None;
                }
                Ok(response)
            }
            (Err(error), sent) => {
                self.stream = None;
                let error = sent.err().unwrap_or(error);
                Err(Failure::Lost(format!("{} {}: {error}", request.method, request.target)))
            }
        }
    }

    /// Opens the connection now.
    ///
    /// # Errors
    /// [`Failure::NotSent`].
    pub fn connect(&mut self) -> Result<(), Failure> {
        if self.stream.is_none() {
            let stream = TcpStream::connect_timeout(&self.address, CONNECT_LIMIT)
                .map_err(|error| Failure::NotSent(format!("{}: {error}", self.address)))?;
            stream.set_nodelay(true).map_err(|error| Failure::NotSent(error.to_string()))?;
            self.stream = Some(stream);
        }
        Ok(())
    }

    /// Sends a request and leaves its answer for [`Client::receive`].
    ///
    /// # Errors
    /// [`Failure`], sorted by what may have happened.
    pub fn send_only(&mut self, request: &Request) -> Result<(), Failure> {
        self.connect()?;
        let stream = self.stream.as_mut().expect("connected just now");
        send_all(stream, &request.wire(), Instant::now() + request.limit)
            .map_err(|error| Failure::Lost(error.to_string()))
    }

    /// Reads the answer to an earlier [`Client::send_only`].
    ///
    /// # Errors
    /// [`Failure::Lost`].
    pub fn receive(&mut self, limit: Duration) -> Result<Response, Failure> {
        let stream = self.stream.as_mut().ok_or_else(|| Failure::Lost("no connection".into()))?;
        match read_response(stream, false, Instant::now() + limit) {
            Ok((response, keep)) => {
                if !keep {
                    self.stream = None;
                }
                Ok(response)
            }
            Err(error) => {
                self.stream = None;
                Err(Failure::Lost(error.to_string()))
            }
        }
    }
}

/// Sends one request on a connection of its own.
///
/// # Errors
/// As [`Client::send`].
pub fn send(port: u16, request: &Request) -> Result<Response, Failure> {
    Client::new(port).send(request)
}

/// Whether an idle connection has been closed (or holds bytes that nobody asked for).
fn closed_by_peer(stream: &TcpStream) -> bool {
    if stream.set_nonblocking(true).is_err() {
        return true;
    }
    let quiet = matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
    stream.set_nonblocking(false).is_err() || !quiet
}

fn remaining(end: Instant) -> io::Result<Duration> {
    let left = end.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer before the limit"));
    }
    Ok(left)
}

fn send_all(stream: &mut TcpStream, bytes: &[u8], end: Instant) -> io::Result<()> {
    stream.set_write_timeout(Some(remaining(end)?))?;
    stream.write_all(bytes)
}

/// Reads one answer; also says whether the connection may be used again.
fn read_response(stream: &mut TcpStream, head_only: bool, end: Instant) -> io::Result<(Response, bool)> {
    let mut reader = Reader { stream, buffer: Vec::new(), at: 0, end };
    loop {
        let (status, headers) = read_head(&mut reader)?;
        if (100..200).contains(&status) {
            continue;
        }
        let mut response = Response { status, headers, body: Vec::new() };
        let close = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if head_only || status == 204 || status == 304 {
            return Ok((response, !close));
        }
        if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            response.body = read_chunked(&mut reader)?;
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| invalid(format!("content-length {length:?}")))?;
            response.body = reader.exactly(length)?;
        } else {
            response.body = reader.rest()?;
            return Ok((response, false));
        }
        return Ok((response, !close));
    }
}

fn read_head(reader: &mut Reader<'_>) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = reader.line()?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .or_else(|| first.strip_prefix("HTTP/1.0 "))
        .and_then(|rest| rest.get(..3)?.parse().ok())
        .ok_or_else(|| invalid(format!("status line {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = reader.line()?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| invalid(format!("header {line:?}")))?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn read_chunked(reader: &mut Reader<'_>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = reader.line()?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| invalid(format!("chunk size {line:?}")))?;
        if size == 0 {
            while !reader.line()?.is_empty() {}
            return Ok(body);
        }
        body.extend(reader.exactly(size)?);
        reader.line()?;
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {what}"))
}

struct Reader<'a> {
    stream: &'a mut TcpStream,
    buffer: Vec<u8>,
    at: usize,
    end: Instant,
}

impl Reader<'_> {
    /// Reads more; `false` at the end of the stream.
    fn fill(&mut self) -> io::Result<bool> {
        self.stream.set_read_timeout(Some(remaining(self.end)?))?;
        let mut chunk = [0; 16 * 1024];
        let count = loop {
            match self.stream.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut searched = self.at;
        loop {
            if let Some(found) = self.buffer[searched..].iter().position(|b| *b == b'\n') {
                let line = &self.buffer[self.at..searched + found];
                let line = String::from_utf8_lossy(line).trim_end_matches('\r').to_owned();
                self.at = searched + found + 1;
                return Ok(line);
            }
            searched = self.buffer.len();
            if searched - self.at > HEAD_BYTES_MAX {
                return Err(invalid("a line without an end".into()));
            }
            if !self.fill()? {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before an answer"));
            }
        }
    }

    fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() - self.at < count {
            if !self.fill()? {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed within a body"));
            }
        }
        let bytes = self.buffer[self.at..self.at + count].to_vec();
        self.at += count;
        Ok(bytes)
    }

    fn rest(&mut self) -> io::Result<Vec<u8>> {
        while self.fill()? {}
        Ok(self.buffer.split_off(self.at))
    }
}
