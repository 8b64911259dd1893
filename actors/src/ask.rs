//! Asking a member's HTTP edge something on behalf of this node's own edge.

use std::time::Instant;

use tokio::time::timeout_at;

use crate::join::exchange_within;

/// Largest answer that is taken from a member, in bytes.
pub const PEER_ANSWER_BYTES_MAX: u64 = 1024 * 1024;

/// What a member answered, whatever the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAnswer {
    pub status: u16,
    pub body: Vec<u8>,
}

/// One request on a connection of its own; `what` is its method and target.
///
/// # Errors
/// In words, when there is no whole answer by the deadline.
pub async fn ask_member(
    address: &str,
    what: &str,
    body: &[u8],
    deadline: Instant,
) -> Result<PeerAnswer, String> {
    let asked = exchange_within(address, what, body, PEER_ANSWER_BYTES_MAX);
    let answer = timeout_at(deadline.into(), asked).await.map_err(|_| "no answer in time".to_owned())?;
    whole(&answer?)
}

/// # Errors
/// In words, for an answer that is cut off, too long or not of HTTP.
fn whole(answer: &[u8]) -> Result<PeerAnswer, String> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("not an HTTP answer")?;
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let first = head.lines().next().filter(|line| line.starts_with("HTTP/")).unwrap_or_default();
    let status = first.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no HTTP status")?;
    let lengths = head.lines().filter_map(|line| line.split_once(':'));
    let length = lengths
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .find_map(|(_, length)| length.trim().parse::<usize>().ok());
    if length != Some(body.len()) {
        return Err(format!("the answer is cut off or longer than {PEER_ANSWER_BYTES_MAX} bytes"));
    }
    Ok(PeerAnswer { status, body: body.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole answer is taken with any status; a part of one never is.
    #[test]
    fn only_whole_answers() {
        let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(whole(answer), Ok(PeerAnswer { status: 404, body: b"{}".to_vec() }));
        for bad in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n{}",
            b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n{}",
            b"x\r\ncontent-length: 2\r\n\r\n{}",
        ] {
            assert!(whole(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
