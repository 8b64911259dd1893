//! A connection on which no error is bare.
//!
//! actix-web answers a request whose head it cannot read on its own: a status, an empty body, and the
//! connection is closed. No route or middleware sees it. This stream knows such an answer when it is
//! written and writes a problem with the common headers instead.
//!
//! Must never change a byte of any other answer. A bare error is the last thing that is written on its
//! connection and consists of a head with a few known lines, which none of this crate's own answers is:
//! they all carry more headers. Only the bytes of a client's own value, at the very end of an answer,
//! could look like one; a connection that has seen a value with such an ending is left alone for good.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{ready, Context, Poll};

use actix_web::http::StatusCode;
use actix_web::rt::net::TcpStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What ends a head.
const HEAD_END: &[u8] = b"\r\n\r\n";
/// Longest bare error, in bytes: a status line and three short headers take about 120.
const BARE_BYTES_MAX: usize = 256;

/// Makes the whole answer that is written in place of a bare error.
pub(crate) trait Refuse: 'static {
    fn refuse(&self, bare: &BareError<'_>) -> Vec<u8>;
}

/// An error as actix-web writes it: `content-length: 0`, `connection`, `date`, nothing else.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BareError<'a> {
    pub(crate) status: StatusCode,
    status_line: &'a str,
    date_line: Option<&'a str>,
}

/// Shared by a connection and its requests: whether an answer ended in bytes that a client chose and
/// that could end a head.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientTail(Rc<Cell<bool>>);

pub(crate) struct Connection<R> {
    stream: TcpStream,
    refuse: Rc<R>,
    client_tail: ClientTail,
    rewrite: Option<Rewrite>,
}

struct Rewrite {
    bytes: Vec<u8>,
    written: usize,
    /// How many bytes of actix-web's these stand for.
    stands_for: usize,
}

impl ClientTail {
    /// To be called before a body that [`may_end_a_head`] is written.
    pub(crate) fn mark(&self) {
        self.0.set(true);
    }
}

/// Whether a body's end could be taken for the end of a head.
pub(crate) fn may_end_a_head(body: &[u8]) -> bool {
    body.ends_with(HEAD_END)
}

impl<'a> BareError<'a> {
    /// Finds a bare error at the end of `written`; also says where it begins.
    fn find(written: &'a [u8]) -> Option<(usize, Self)> {
        let tail_start = written.len().saturating_sub(BARE_BYTES_MAX);
        let head = written[tail_start..].strip_suffix(HEAD_END)?;
        let start = head.windows(5).rposition(|window| window == b"HTTP/")?;
        let mut all_lines = std::str::from_utf8(&head[start..]).ok()?.split("\r\n");
        let status_line = all_lines.next()?;
        let status = StatusCode::from_bytes(status_line.split(' ').nth(1)?.as_bytes()).ok()?;
        let (mut date_line, mut is_empty) = (None, false);
        for line in all_lines {
            match line.split_once(": ")? {
                ("content-length", "0") => is_empty = true,
                ("date", _) => date_line = Some(line),
                ("connection", _) => {}
                _ => return None,
            }
        }
        let is_error = status.is_client_error() || status.is_server_error();
        (is_empty && is_error).then_some((tail_start + start, Self { status, status_line, date_line }))
    }

    /// The same error with further header lines, each ending in CRLF, and a body. actix-web closes the
    /// connection after it and does not always say so.
    pub(crate) fn replace(&self, more_lines: &str, body: &[u8]) -> Vec<u8> {
        let (status_line, length) = (self.status_line, body.len());
        let date_line = self.date_line.map_or(String::new(), |line| format!("{line}\r\n"));
        let head = format!(
            "{status_line}\r\ncontent-length: {length}\r\nconnection: close\r\n{date_line}{more_lines}\r\n"
        );
        [head.as_bytes(), body].concat()
    }
}

impl<R> Connection<R> {
    pub(crate) fn new(stream: TcpStream, refuse: Rc<R>) -> Self {
        Self { stream, refuse, client_tail: ClientTail::default(), rewrite: None }
    }

    pub(crate) fn client_tail(&self) -> ClientTail {
        self.client_tail.clone()
    }
}

impl Rewrite {
    /// Writes the rest; ready with the number of bytes that the caller may consider written.
    fn poll(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        while self.written < self.bytes.len() {
            match ready!(Pin::new(&mut *stream).poll_write(cx, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        Poll::Ready(Ok(self.stands_for))
    }
}

impl<R: Refuse> AsyncWrite for Connection<R> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.rewrite.is_none() && buf.ends_with(HEAD_END) && !this.client_tail.0.get() {
            match BareError::find(buf) {
                // What stands before it goes out first; the caller comes again with the rest.
                Some((start @ 1.., _)) => return Pin::new(&mut this.stream).poll_write(cx, &buf[..start]),
                Some((0, bare)) => {
                    let bytes = this.refuse.refuse(&bare);
                    this.rewrite = Some(Rewrite { bytes, written: 0, stands_for: buf.len() });
                }
                None => {}
            }
        }
        let Some(rewrite) = &mut this.rewrite else {
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        };
        let written = ready!(rewrite.poll(&mut this.stream, cx));
        this.rewrite = None;
        Poll::Ready(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

impl<R: 'static> AsyncRead for Connection<R> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BARE: &str =
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\ndate: now\r\n\r\n";

    /// A bare error is found at the end and only there, and nothing else is taken for one.
    #[test]
    fn finds_bare_errors() {
        let (start, bare) = BareError::find(BARE.as_bytes()).expect("alone");
        assert_eq!((start, bare.status), (0, StatusCode::BAD_REQUEST));
        let after = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx{BARE}");
        assert_eq!(BareError::find(after.as_bytes()).expect("after another").0, after.len() - BARE.len());
        for other in [
            "",
            "\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nvault-node: n\r\n\r\n",
            "HTTP/1.1 404 Not Found\r\ncontent-length: 12\r\ndate: now\r\n\r\n",
            &BARE[..BARE.len() - 1],
            &format!("{BARE}x"),
            &format!("{}{}", &BARE[..40], "x".repeat(300)),
        ] {
            assert_eq!(BareError::find(other.as_bytes()), None, "{other:?}");
        }
    }

    /// The replacement keeps the status and what the connection said, and counts its body.
    #[test]
    fn replaces_bare_errors() {
        let (_, bare) = BareError::find(BARE.as_bytes()).expect("alone");
        let whole = String::from_utf8(bare.replace("a: b\r\n", b"body")).expect("text");
        let want = "HTTP/1.1 400 Bad Request\r\ncontent-length: 4\r\nconnection: close\r\ndate: now\r\na: b\r\n\r\nbody";
        assert_eq!(whole, want);
    }
}
