//! Reads just enough of an HTTP/1.1 answer: status, length, whether the connection stays open, whether
//! the body is the one that was expected, and, of a failure, the body.
//!
//! Must never copy the body of a success, and never hold more than its limits.

use serde_json::Value;

/// Largest head that is accepted, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most of a failure's body that is kept, in bytes; problem documents are far smaller.
const BODY_BYTES_KEPT_MAX: usize = 4 * 1024;
/// Longest code of a problem document that is counted under its own name.
const CODE_BYTES_MAX: usize = 64;

/// A complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    /// The server will close the connection.
    pub closes: bool,
    /// A success, but not with the body that was expected.
    pub wrong: bool,
}

impl Answer {
    pub fn succeeded(self) -> bool {
        self.is_success() && !self.wrong
    }

    fn is_success(self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// What arrived is not an answer to one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an HTTP/1.1 answer with a content-length")]
pub struct Malformed;

#[derive(Debug, Clone, Copy)]
struct Head {
    answer: Answer,
    body_bytes: usize,
}

/// Takes an answer in pieces of any size. One answer at a time: requests are never pipelined.
#[derive(Debug, Default)]
pub struct Decoder {
    /// An incomplete head.
    held: Vec<u8>,
    head: Option<Head>,
    /// Bytes of the body that have not arrived.
    body_left: usize,
    /// The body of a failure.
    body: Vec<u8>,
    /// What the body of a success must be, when `checks`.
    expected: Vec<u8>,
    checks: bool,
}

impl Decoder {
    /// Forgets everything of the last answer.
    pub fn reset(&mut self) {
        self.held.clear();
        self.head = None;
        self.body_left = 0;
        self.body.clear();
        self.checks = false;
    }

    /// Of the next answer, if it is a success: what its body must be. `write` replaces what the buffer holds.
    pub fn expect(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.expected);
        self.checks = true;
    }

    /// Takes what arrived; the answer once its last byte is there.
    ///
    /// # Errors
    /// [`Malformed`] for anything else than one answer with a known length.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Answer>, Malformed> {
        let mut body = bytes;
        if self.head.is_none() {
            let Some((head, used)) = self.take_head(bytes)? else { return Ok(None) };
            self.head = Some(head);
            self.body_left = head.body_bytes;
            body = &bytes[used..];
        }
        let Some(head) = &mut self.head else { return Ok(None) };
        let at = head.body_bytes - self.body_left;
        self.body_left = self.body_left.checked_sub(body.len()).ok_or(Malformed)?;
        if head.answer.is_success() {
            if self.checks {
                let same = self.expected.get(at..at + body.len()) == Some(body);
                head.answer.wrong |= !same || head.body_bytes != self.expected.len();
            }
        } else {
            let room = BODY_BYTES_KEPT_MAX - self.body.len();
            self.body.extend_from_slice(&body[..body.len().min(room)]);
        }
        Ok((self.body_left == 0).then_some(head.answer))
    }

    /// The head and how many of `bytes` belong to it.
    fn take_head(&mut self, bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
        if self.held.is_empty() {
            // Nearly always the whole head is in one piece, which is then never copied.
            if let Some((head, length)) = parse_head(bytes)? {
                return Ok(Some((head, length)));
            }
        }
        let before = self.held.len();
        self.held.extend_from_slice(bytes);
        match parse_head(&self.held)? {
            Some((head, length)) => {
                self.held.clear();
                Ok(Some((head, length - before)))
            }
            None if self.held.len() > HEAD_BYTES_MAX => Err(Malformed),
            None => Ok(None),
        }
    }

    /// Under which name the failure that was just answered is counted: `wrong_value`, the `code` of the problem
    /// document, else the status.
    pub fn code(&self, answer: Answer) -> String {
        if answer.wrong {
            return "wrong_value".to_owned();
        }
        let code = serde_json::from_slice::<Value>(&self.body).ok().and_then(|problem| {
            let code = problem.get("code")?.as_str()?;
            let known = !code.is_empty()
                && code.len() <= CODE_BYTES_MAX
                && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
            known.then(|| code.to_owned())
        });
        code.unwrap_or_else(|| format!("http_{}", answer.status))
    }
}

/// The head and its length, once its blank line is there.
fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, Malformed> {
    let mut status = None;
    let mut body_bytes = None;
    let mut closes = false;
    let mut at = 0;
    while let Some(length) = bytes[at..].iter().position(|b| *b == b'\n') {
        let line = bytes[at..at + length].strip_suffix(b"\r").ok_or(Malformed)?;
        at += length + 1;
        if status.is_none() {
            status = Some(parse_status(line)?);
        } else if line.is_empty() {
            let status = status.ok_or(Malformed)?;
            let bodiless = status == 204 || status == 304;
            let body_bytes = body_bytes.or(bodiless.then_some(0)).ok_or(Malformed)?;
            return Ok(Some((Head { answer: Answer { status, closes, wrong: false }, body_bytes }, at)));
        } else if let Some(value) = header(line, b"content-length") {
            body_bytes = Some(parse_number(value)?);
        } else if let Some(value) = header(line, b"connection") {
            closes = value.eq_ignore_ascii_case(b"close");
        }
    }
    Ok(None)
}

/// The value of the header, when the line is one of that name.
fn header<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let rest = line.get(name.len()..)?;
    let named = rest.first() == Some(&b':') && line[..name.len()].eq_ignore_ascii_case(name);
    named.then(|| rest[1..].trim_ascii())
}

fn parse_status(line: &[u8]) -> Result<u16, Malformed> {
    let rest = line.strip_prefix(b"HTTP/1.1 ").ok_or(Malformed)?;
    match rest {
        [a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', ..] => {
            Ok(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => Err(Malformed),
    }
}

fn parse_number(digits: &[u8]) -> Result<usize, Malformed> {
    std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nVault-Node: n\r\nContent-Length: 16\r\n\r\n{\"revision\":123}";
    const REFUSED: &[u8] = b"HTTP/1.1 429 Too Many Requests\r\nretry-after: 1\r\ncontent-length:21\r\n\
        Connection: close\r\n\r\n{\"code\":\"overloaded\"}";

    /// An answer is the same wherever it is cut, in two pieces or byte by byte, and counts only once
    /// its last byte is there.
    #[test]
    fn any_cut_gives_the_same_answer() {
        for (bytes, answer, code) in [
            (OK, Answer { status: 200, closes: false, wrong: false }, "http_200"),
            (REFUSED, Answer { status: 429, closes: true, wrong: false }, "overloaded"),
        ] {
            for cut in 0..bytes.len() {
                let mut decoder = Decoder::default();
                // The decoder is used again and again, as on a connection.
                for _ in 0..2 {
                    decoder.reset();
                    assert_eq!(decoder.take(&bytes[..cut]), Ok(None), "cut at {cut}");
                    assert_eq!(decoder.take(&bytes[cut..]), Ok(Some(answer)), "cut at {cut}");
                    assert_eq!(decoder.code(answer), code, "cut at {cut}");
                }
            }
            let mut decoder = Decoder::default();
            let (last, rest) = bytes.split_last().expect("not empty");
            for byte in rest {
                assert_eq!(decoder.take(&[*byte]), Ok(None));
            }
            assert_eq!(decoder.take(&[*last]), Ok(Some(answer)));
        }
    }

    /// What is no answer is refused, and so are bytes beyond it.
    #[test]
    fn malformed() {
        for bytes in [
            &b"SSH-2.0-x\r\n"[..],
            b"HTTP/1.1 2x0 OK\r\n",
            b"HTTP/1.1 200 OK\n\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nab",
        ] {
            assert_eq!(Decoder::default().take(bytes), Err(Malformed), "{}", bytes.escape_ascii());
        }
        let mut endless = Decoder::default();
        let line = [b'a'; 1024];
        assert_eq!(endless.take(b"HTTP/1.1 200 OK\r\n"), Ok(None));
        let refused = (0..=HEAD_BYTES_MAX / line.len()).any(|_| endless.take(&line).is_err());
        assert!(refused);
    }

    #[test]
    fn answers_without_a_body() {
        let take = |bytes: &[u8]| Decoder::default().take(bytes);
        let answer = |status| Ok(Some(Answer { status, closes: false, wrong: false }));
        assert_eq!(take(b"HTTP/1.1 204 No Content\r\n\r\n"), answer(204));
        assert_eq!(take(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"), answer(200));
    }

    /// The body that was expected succeeds wherever it is cut, any other does not, and a failure stays what it is.
    #[test]
    fn bodies_are_checked() {
        let code = |bytes: &[u8], expected: &str, cut: usize| {
            let mut decoder = Decoder::default();
            decoder.expect(|out| out.extend_from_slice(expected.as_bytes()));
            assert_eq!(decoder.take(&bytes[..cut]), Ok(None));
            let answer = decoder.take(&bytes[cut..]).expect("an answer").expect("all of it");
            (answer.succeeded(), decoder.code(answer))
        };
        for cut in 0..OK.len() {
            assert!(code(OK, "{\"revision\":123}", cut).0, "cut at {cut}");
            for other in ["{\"revision\":124}", "{\"revision\":12}", "{\"revision\":123}\n", ""] {
                assert_eq!(code(OK, other, cut), (false, "wrong_value".into()), "cut at {cut}");
            }
        }
        assert_eq!(code(REFUSED, "", 0), (false, "overloaded".into()));
        let empty = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        assert!(code(empty, "", 0).0 && !code(empty, "v", 0).0);
    }

    /// Of a failure's body no more is kept than the limit, and a code that is none gives the status.
    #[test]
    fn failures_are_named_and_bounded() {
        let body = |text: &str| {
            let mut decoder = Decoder::default();
            let head = format!("HTTP/1.1 503 x\r\ncontent-length: {}\r\n\r\n", text.len());
            decoder.take(head.as_bytes()).expect("a head");
            let answer = decoder.take(text.as_bytes()).expect("a body").expect("all of it");
            assert!(decoder.body.len() <= BODY_BYTES_KEPT_MAX);
            decoder.code(answer)
        };
        assert_eq!(body("{\"code\":\"no_leader\",\"status\":503}"), "no_leader");
        for other in ["{\"code\":14}", "{\"code\":\"\"}", "{\"code\":\"a b\"}", "busy", "{}"] {
            assert_eq!(body(other), "http_503", "{other}");
        }
        assert_eq!(body(&"x".repeat(3 * BODY_BYTES_KEPT_MAX)), "http_503");
    }
}
