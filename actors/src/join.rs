//! Asking another node over HTTP: a member to be let into its cluster, any node for its status.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use vaultdb_consensus::api::JoinRequest;

/// Longest time for one answer: the member may wait for an election meanwhile.
const ANSWER_MS_MAX: u64 = 10_000;
/// Longest time for an answer from memory.
const GET_MS_MAX: u64 = 1_000;
/// Wait after a round over all addresses failed, in milliseconds: first and longest.
const BACKOFF_MS: (u64, u64) = (50, 1_000);
/// Largest answer that is read, in bytes.
const ANSWER_BYTES_MAX: u64 = 64 * 1024;

#[derive(Serialize)]
struct Body<'a> {
    id: &'a str,
    addr: &'a str,
    http_addr: &'a str,
    instance: Option<&'a str>,
    learner: bool,
}

/// The part of the answer that a node needs.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub struct Joined {
    pub cluster_id: String,
    pub id: u64,
}

/// Whom to ask, and for what.
#[derive(Debug)]
pub struct Target {
    members: Vec<String>,
    /// No other may be joined.
    cluster_id: Option<String>,
}

impl Target {
    /// The cluster that the members are of, whichever it is.
    pub fn any(members: Vec<String>) -> Self {
        Target { members, cluster_id: None }
    }

    /// This cluster alone, if the members are still of it.
    pub fn cluster(members: Vec<String>, cluster_id: String) -> Self {
        Target { members, cluster_id: Some(cluster_id) }
    }

    /// Asks the member who it is before it lets anybody in; in words, when it is of another cluster.
    async fn check(&self, member: &str) -> Result<(), String> {
        let Some(wanted) = &self.cluster_id else { return Ok(()) };
        let Status { cluster } = get(member, "/status").await?;
        Self::accepts(wanted, &cluster.id)
    }

    fn accepts(wanted: &str, found: &str) -> Result<(), String> {
        match wanted == found {
            true => Ok(()),
            false => Err(format!("it is of cluster \"{found}\", not of {wanted}")),
        }
    }
}

/// The part of `GET /status` that names the cluster.
#[derive(Deserialize)]
struct Status {
    cluster: ClusterId,
}

#[derive(Deserialize)]
struct ClusterId {
    id: String,
}

/// Asks each member in turn, again and again with back-off, until one lets this node in.
pub async fn join_cluster(target: &Target, request: &JoinRequest) -> Joined {
    let body = serde_json::to_vec(&Body {
        id: &request.name,
        addr: &request.addr.raft,
        http_addr: &request.addr.http,
        instance: request.instance.as_deref(),
        learner: request.stays_learner,
    })
    .expect("strings are always JSON");
    let (mut wait_ms, longest_ms) = BACKOFF_MS;
    let mut said = String::new();
    loop {
        for member in &target.members {
            let asked = timeout(Duration::from_millis(ANSWER_MS_MAX), ask(target, member, &body)).await;
            let reason = match asked {
                Ok(Ok(joined)) => return joined,
                Ok(Err(reason)) => reason,
                Err(_) => format!("no answer within {ANSWER_MS_MAX} ms"),
            };
            let line = format!("not joined through {member} yet: {reason}");
            // The same reason once is enough: this may go on for long.
            if line != said {
                log::info!("{line}");
                said = line;
            }
        }
        sleep(Duration::from_millis(wait_ms)).await;
        wait_ms = (wait_ms * 2).min(longest_ms);
    }
}

/// What a node answers from memory, at most [`GET_MS_MAX`] later.
pub(crate) async fn get<T: DeserializeOwned>(node: &str, path: &str) -> Result<T, String> {
    let what = format!("GET {path}");
    let asked = timeout(Duration::from_millis(GET_MS_MAX), exchange(node, &what, &[]));
    let answer = asked.await.map_err(|_| format!("no answer within {GET_MS_MAX} ms"))?;
    parse(&answer?)
}

async fn ask(target: &Target, member: &str, body: &[u8]) -> Result<Joined, String> {
    target.check(member).await?;
    let joined: Joined = parse(&exchange(member, "POST /join", body).await?)?;
    // Another node may listen there by now.
    target.cluster_id.as_ref().map_or(Ok(()), |wanted| Target::accepts(wanted, &joined.cluster_id))?;
    Ok(joined)
}

/// One request on a connection of its own, and the whole answer.
///
/// # Errors
/// Why there is none.
pub(crate) async fn exchange(member: &str, what: &str, body: &[u8]) -> Result<Vec<u8>, String> {
    exchange_within(member, what, body, ANSWER_BYTES_MAX).await
}

/// As [`exchange`]; of a longer answer only the first `bytes_max` bytes.
///
/// # Errors
/// Why there is none.
pub(crate) async fn exchange_within(
    member: &str,
    what: &str,
    body: &[u8],
    bytes_max: u64,
) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(member).await.map_err(|e| e.to_string())?;
    let head = format!(
        "{what} HTTP/1.1\r\nHost: {member}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body).await?;
        stream.take(bytes_max).read_to_end(&mut answer).await
    };
    exchange.await.map_err(|e| e.to_string())?;
    Ok(answer)
}

/// The answer is short and from a member of ours: a head, an empty line and JSON of known length.
///
/// # Errors
/// In words, for anything but a complete 200.
pub(crate) fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, String> {
    let text = String::from_utf8_lossy(answer);
    let (head, body) = text.split_once("\r\n\r\n").ok_or("not an HTTP answer")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("{status} {}", body.trim()));
    }
    serde_json::from_str(body).map_err(|e| format!("unexpected answer: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a complete success is taken for one; anything else becomes a reason.
    #[test]
    fn answers() {
        let body = r#"{"cluster_id":"c","id":7,"name":"n","revision":3}"#;
        let ok = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        assert_eq!(parse(ok.as_bytes()), Ok(Joined { cluster_id: "c".into(), id: 7 }));
        for bad in [
            "",
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.1 200 OK\r\n\r\n{}",
            "HTTP/1.1 200 OK\r\n\r\n{\"cluster_id\":\"c\"",
            "HTTP/1.1 503 Service Unavailable\r\n\r\n{\"code\":\"no_leader\"}",
        ] {
            assert!(parse::<Joined>(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
