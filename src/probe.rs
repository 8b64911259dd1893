//! A health check for places without a shell or curl: one HTTP/1.1 GET over a plain socket.
//!
//! Owns nothing. Must stay free of the node's own HTTP stack, so that it starts in a millisecond.

use std::fmt;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use vaultdb_kv::member::check_address;

/// Most of an answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 16 * 1024;
/// Most of an answer's body that a failure repeats, in characters.
const REASON_CHARS_MAX: usize = 300;
const HTTP_PORT: &str = "80";

/// What to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `host:port`.
    address: String,
    path: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.address, self.path)
    }
}

impl Target {
    /// Reads `http://host[:port][/path]`.
    ///
    /// # Errors
    /// A sentence that quotes the URL.
    pub fn from_url(url: &str) -> Result<Self, String> {
        let shown = url.escape_debug();
        let Some(rest) = url.strip_prefix("http://") else {
            return Err(format!("\"{shown}\" does not begin with http://"));
        };
        if rest.contains(|c: char| c.is_control() || c.is_whitespace()) {
            return Err(format!("\"{shown}\" is not a URL"));
        }
        let (host, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let address = if has_port { host.to_owned() } else { format!("{host}:{HTTP_PORT}") };
        check_address(&address).map_err(|_| format!("\"{shown}\" has no valid host and port"))?;
        Ok(Self { address, path: path.to_owned() })
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Path and query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same machine's server that binds this address.
    ///
    /// # Errors
    /// A sentence that quotes the address.
    pub fn from_bind_address(address: &str, path: &str) -> Result<Self, String> {
        check_address(address)
            .map_err(|_| format!("\"{}\" is not an address of the form host:port", address.escape_debug()))?;
        let address = match address.rsplit_once(':') {
            Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
            Some(("[::]", port)) => format!("[::1]:{port}"),
            _ => address.to_owned(),
        };
        Ok(Self { address, path: path.to_owned() })
    }
}

/// Asks once. `Ok` is an answer with status 200.
///
/// A name that resolves to several addresses is tried at each of them. The work is done on a thread
/// of its own, because a name lookup takes no timeout; that thread is left behind when time is up, so
/// this is for a process that ends right after.
///
/// # Errors
/// One line that says why the node is not well.
pub fn run(target: &Target, timeout: Duration) -> Result<(), String> {
    let (answer, answered) = mpsc::sync_channel(1);
    let asked = target.clone();
    thread::Builder::new()
        .name("probe".into())
        .spawn(move || {
            // Nobody listens any more once the time is up.
            let _ = answer.send(ask(&asked, timeout));
        })
        .map_err(|error| format!("{target}: cannot start a thread: {error}"))?;
    match answered.recv_timeout(timeout) {
        Ok(result) => result.map_err(|reason| format!("{target}: {reason}")),
        Err(_) => Err(format!("{target}: no answer within {} ms", timeout.as_millis())),
    }
}

fn ask(target: &Target, timeout: Duration) -> Result<(), String> {
    let mut stream = connect(&target.address, timeout)?;
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: vaultdb-probe\r\nConnection: close\r\n\r\n",
        target.path, target.address
    );
    stream.write_all(request.as_bytes()).map_err(|error| format!("cannot send: {error}"))?;
    let mut bytes = Vec::new();
    // A connection that is cut after the status line has told enough.
    if let Err(error) = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes) {
        if bytes.is_empty() {
            return Err(format!("cannot receive: {error}"));
        }
    }
    let answer = String::from_utf8_lossy(&bytes);
    let status_line = answer.lines().next().unwrap_or_default();
    match status_line.split(' ').nth(1) {
        _ if !status_line.starts_with("HTTP/1.") => Err("the answer is not HTTP".into()),
        Some("200") => Ok(()),
        _ => {
            let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let reason: String = body.chars().take(REASON_CHARS_MAX).collect();
            let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
            Err(format!("{status_line} {reason}"))
        }
    }
}

/// Connects to the first of the name's addresses that answers.
///
/// # Errors
/// In words.
pub fn connect(address: &str, timeout: Duration) -> Result<TcpStream, String> {
    let addresses: Vec<_> =
        address.to_socket_addrs().map_err(|error| format!("cannot look up the host: {error}"))?.collect();
    let Ok(count) = u32::try_from(addresses.len().max(1)) else {
        return Err("the host has too many addresses".into());
    };
    let mut reason = "the host has no address".to_owned();
    for address in addresses {
        match TcpStream::connect_timeout(&address, timeout / count) {
            Ok(stream) => return Ok(stream),
            Err(error) => reason = format!("cannot connect to {address}: {error}"),
        }
    }
    Err(reason)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use super::*;

    /// A server that gives one answer, and what it was asked.
    fn serve(answer: &'static str) -> (Target, mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}/livez?verbose", listener.local_addr().expect("address"));
        let (asked, request) = mpsc::channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("clone"));
            reader.read_line(&mut line).expect("request line");
            let mut header = String::new();
            while reader.read_line(&mut header).expect("header") > 2 {
                header.clear();
            }
            asked.send(line).expect("test waits");
            stream.write_all(answer.as_bytes()).expect("answer");
        });
        (Target::from_url(&url).expect("url"), request)
    }

    const TIMEOUT: Duration = Duration::from_secs(10);

    /// Only a 200 counts as well.
    #[test]
    fn only_200_is_well() {
        let (target, request) = serve("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(run(&target, TIMEOUT), Ok(()));
        assert_eq!(request.recv().expect("request"), "GET /livez?verbose HTTP/1.1\r\n");

        let (target, _request) = serve("HTTP/1.1 503 Service Unavailable\r\n\r\n[-]store\nslow\n");
        let reason = run(&target, TIMEOUT).expect_err("503");
        assert!(reason.ends_with("HTTP/1.1 503 Service Unavailable [-]store slow"), "{reason}");

        for answer in ["", "SSH-2.0-x 200\r\n"] {
            let (target, _request) = serve(answer);
            assert!(run(&target, TIMEOUT).is_err(), "{answer}");
        }
    }

    /// A server that accepts and then says nothing does not hold the probe.
    #[test]
    fn silence_ends_at_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}", listener.local_addr().expect("address"));
        let target = Target::from_url(&url).expect("url");
        let reason = run(&target, Duration::from_millis(50)).expect_err("silent");
        assert!(reason.ends_with("no answer within 50 ms"), "{reason}");
    }

    #[test]
    fn nobody_listens() {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("address");
        let target = Target::from_url(&format!("http://{address}")).expect("url");
        let reason = run(&target, TIMEOUT).expect_err("refused");
        assert!(reason.contains("cannot connect"), "{reason}");
    }

    #[test]
    fn urls() {
        let shown = |url: &str| Target::from_url(url).map(|target| target.to_string());
        assert_eq!(shown("http://h").as_deref(), Ok("http://h:80/"));
        assert_eq!(shown("http://[::1]:1/a/b").as_deref(), Ok("http://[::1]:1/a/b"));
        assert_eq!(shown("http://[::1]/").as_deref(), Ok("http://[::1]:80/"));
        for bad in
            ["", "h:1", "https://h", "http://", "http://:1", "http://h:x/", "http://h/a b", "http://h/\r\nX:"]
        {
            assert!(shown(bad).is_err(), "{bad:?}");
        }
    }
}
