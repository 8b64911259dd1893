//! One long answer over a plain socket, written out as it comes: HTTP/1.1 with a chunked body.
//!
//! Owns nothing. A body that does not come to its end is an error, whatever arrived of it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::probe::{connect, Target};

/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest line of a head or before a chunk, in bytes.
const LINE_BYTES_MAX: u64 = 64 * 1024;
/// Most lines of a head.
const HEAD_LINES_MAX: usize = 256;
/// Most of an error's body that is repeated, in bytes.
const REASON_BYTES_MAX: u64 = 2_000;

/// Asks for the target and writes the body of its answer. No step of it may wait longer than `silence_max`.
///
/// # Errors
/// In words: no connection, another status than 200, silence, a body without an end, or a failed write.
pub fn download(target: &Target, silence_max: Duration, into: &mut impl Write) -> Result<(), String> {
    let stream = connect(target.address(), CONNECT_MAX)?;
    let timeouts = stream.set_read_timeout(Some(silence_max));
    timeouts.and_then(|()| stream.set_write_timeout(Some(silence_max))).map_err(|error| error.to_string())?;
    ask(&stream, target).map_err(|error| format!("cannot send: {error}"))?;
    let mut answer = BufReader::new(stream);
    let head = head(&mut answer).map_err(|error| format!("no answer: {}", told(&error)))?;
    let status = head.first().map(String::as_str).unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200") {
        let mut reason = Vec::new();
        // What was read of the reason is told; the status alone tells enough.
        let _ = answer.take(REASON_BYTES_MAX).read_to_end(&mut reason);
        return Err(format!("{status}: {}", String::from_utf8_lossy(&reason).trim().escape_debug()));
    }
    let is_chunked =
        head.iter().any(|line| line.to_ascii_lowercase().starts_with("transfer-encoding: chunked"));
    if !is_chunked {
        return Err("the answer is not a stream: is that a node of VaultDB?".into());
    }
    while let Some(bytes) = chunk_bytes(&mut answer)? {
        let copied = io::copy(&mut (&mut answer).take(bytes), into).map_err(|error| told(&error))?;
        if copied < bytes {
            return Err(ENDED.into());
        }
        line(&mut answer).map_err(|error| told(&error))?;
    }
    Ok(())
}

const ENDED: &str = "the connection ended before the answer did";

fn told(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => ENDED.into(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "nothing came for too long".into(),
        _ => error.to_string(),
    }
}

fn ask(mut stream: &TcpStream, target: &Target) -> io::Result<()> {
    let request = format!(
        "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: vaultdb\r\nConnection: close\r\n\r\n",
        target.path(),
        target.address()
    );
    stream.write_all(request.as_bytes())
}

/// The status line and the headers.
fn head(answer: &mut impl BufRead) -> io::Result<Vec<String>> {
    let mut lines = Vec::new();
    while lines.len() < HEAD_LINES_MAX {
        match line(answer)? {
            end if end.is_empty() => return Ok(lines),
            line => lines.push(line),
        }
    }
    Err(io::Error::other("its head has no end"))
}

/// How many bytes the next chunk has; `None` when there is none.
fn chunk_bytes(answer: &mut impl BufRead) -> Result<Option<u64>, String> {
    let line = line(answer).map_err(|error| told(&error))?;
    let size = line.split(';').next().unwrap_or_default().trim();
    match u64::from_str_radix(size, 16) {
        Ok(0) => Ok(None),
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => Err(format!("\"{}\" is not the size of a chunk", line.escape_debug())),
    }
}

/// A line without its end.
fn line(answer: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    answer.take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\r').to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What is written of this answer, which a server gives and then closes.
    fn downloaded(answer: &'static str) -> Result<String, String> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let url = format!("http://{}/x?y=1", listener.local_addr().expect("address"));
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("accept");
            let mut reader = BufReader::new(stream.try_clone().expect("clone"));
            let head = head(&mut reader).expect("a request");
            assert_eq!(head[0], "GET /x?y=1 HTTP/1.1");
            stream.write_all(answer.as_bytes()).expect("answer");
        });
        let mut body = Vec::new();
        let target = Target::from_url(&url).expect("url");
        let result = download(&target, Duration::from_secs(10), &mut body);
        server.join().expect("the server ends");
        result.map(|()| String::from_utf8(body).expect("text"))
    }

    const OK: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

    /// A body counts only with its end; anything else says why.
    #[test]
    fn only_whole_answers_count() {
        let whole: &'static str = format!("{OK}3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n").leak();
        assert_eq!(downloaded(whole).as_deref(), Ok("abcde"));
        for end in OK.len()..whole.len() - "0\r\n\r\n".len() {
            assert_eq!(downloaded(&whole[..end]), Err(ENDED.into()), "{end}");
        }
        for (answer, reason) in [
            ("", "no answer"),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n{\"code\":\"no_leader\"}", "no_leader"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "not a stream"),
            (format!("{OK}zz\r\n").leak(), "zz"),
        ] {
            let refused = downloaded(answer).expect_err(answer);
            assert!(refused.contains(reason), "{refused}");
        }
    }
}
