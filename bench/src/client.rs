//! One keep-alive HTTP/1.1 connection that sends writes and reads just enough of the answers.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Largest answer that is expected, in bytes.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

pub struct Client {
    stream: TcpStream,
    host: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    pub async fn connect(endpoint: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, host: endpoint.to_owned(), request: Vec::new(), answer: Vec::new() })
    }

    /// Sends one write and answers with its status.
    ///
    /// # Errors
    /// When the connection breaks or the answer is not HTTP.
    pub async fn put(&mut self, key: &str, value: &[u8]) -> io::Result<u16> {
        self.request.clear();
        let head = format!(
            "PUT /v1/kv/{key} HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n",
            self.host,
            value.len()
        );
        self.request.extend_from_slice(head.as_bytes());
        self.request.extend_from_slice(value);
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        loop {
            if self.stream.read_buf(&mut self.answer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if let Some(status) = complete(&self.answer)? {
                return Ok(status);
            }
            if self.answer.len() > ANSWER_BYTES_MAX {
                return Err(invalid("the answer is too long"));
            }
        }
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

/// The status once head and body are there; `None` while they are not.
fn complete(answer: &[u8]) -> io::Result<Option<u16>> {
    let Some(head_end) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&answer[..head_end]).map_err(|_| invalid("the head is not text"))?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok());
    match (status, length) {
        (Some(status), Some(length)) => Ok((answer.len() >= head_end + 4 + length).then_some(status)),
        _ => Err(invalid("an answer without status or length")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer counts only once all of it is there.
    #[test]
    fn an_answer_is_complete_with_its_last_byte() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        for cut in 0..answer.len() {
            assert_eq!(complete(&answer[..cut]).expect("a prefix is not wrong"), None, "{cut}");
        }
        assert_eq!(complete(answer).expect("valid"), Some(200));
        assert!(complete(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }
}
