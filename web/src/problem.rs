//! Errors as clients see them: `application/problem+json` (RFC 9457) with a stable code.
//!
//! Owns the table of codes. Must never say `applied: "no"` of a write that may still take effect.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use serde::Serialize;
use vaultdb_kv::{AdminError, Consistency, ReadError, Revision, WriteError};

/// When to come back after a refusal for load, in milliseconds: about one batch of writes.
const RETRY_OVERLOADED_MS: u64 = 100;
/// When to come back after a missing leader, in milliseconds: about one election.
const RETRY_NO_LEADER_MS: u64 = 500;
/// When to come back to a node that lags, in milliseconds.
const RETRY_BEHIND_MS: u64 = 100;
/// When to come back to a node that starts or stops, in milliseconds.
const RETRY_STARTING_MS: u64 = 1_000;

/// The stable `code` of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Code {
    InvalidJson,
    InvalidKey,
    InvalidParameter,
    KeyNotFound,
    NoSuchRoute,
    NoSuchMember,
    WriteNotKnown,
    MethodNotAllowed,
    NotText,
    RequestTimeout,
    /// Not HTTP, or not as far as it can be read.
    MalformedRequest,
    HeadTooLarge,
    Conflict,
    WouldLoseQuorum,
    CursorExpired,
    PreconditionFailed,
    IdempotencyKeyReused,
    KeyTooLarge,
    ValueTooLarge,
    BatchTooLarge,
    BodyTooLarge,
    UnsupportedMediaType,
    Overloaded,
    NoLeader,
    TooStale,
    Behind,
    Starting,
    OutcomeUnknown,
    OutOfSpace,
    Internal,
}

impl Code {
    /// Every code, in the order of its discriminant.
    pub(crate) const ALL: [Code; 30] = [
        Code::InvalidJson,
        Code::InvalidKey,
        Code::InvalidParameter,
        Code::KeyNotFound,
        Code::NoSuchRoute,
        Code::NoSuchMember,
        Code::WriteNotKnown,
        Code::MethodNotAllowed,
        Code::NotText,
        Code::RequestTimeout,
        Code::MalformedRequest,
        Code::HeadTooLarge,
        Code::Conflict,
        Code::WouldLoseQuorum,
        Code::CursorExpired,
        Code::PreconditionFailed,
        Code::IdempotencyKeyReused,
        Code::KeyTooLarge,
        Code::ValueTooLarge,
        Code::BatchTooLarge,
        Code::BodyTooLarge,
        Code::UnsupportedMediaType,
        Code::Overloaded,
        Code::NoLeader,
        Code::TooStale,
        Code::Behind,
        Code::Starting,
        Code::OutcomeUnknown,
        Code::OutOfSpace,
        Code::Internal,
    ];

    /// Code, status and title; the title is the same for each occurrence (RFC 9457, section 3.1.3).
    fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Code::InvalidJson => {
                ("invalid_json", StatusCode::BAD_REQUEST, "The body is not the JSON asked for")
            }
            Code::InvalidKey => ("invalid_key", StatusCode::BAD_REQUEST, "The key is malformed"),
            Code::InvalidParameter => {
                ("invalid_parameter", StatusCode::BAD_REQUEST, "A parameter is malformed or not supported")
            }
            Code::KeyNotFound => ("key_not_found", StatusCode::NOT_FOUND, "The key is absent"),
            Code::NoSuchRoute => ("no_such_route", StatusCode::NOT_FOUND, "There is no such route"),
            Code::NoSuchMember => ("no_such_member", StatusCode::NOT_FOUND, "There is no such member"),
            Code::WriteNotKnown => {
                ("write_not_known", StatusCode::NOT_FOUND, "The write is too old to be told of")
            }
            Code::MethodNotAllowed => (
                "method_not_allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "The route does not answer this method",
            ),
            Code::NotText => ("not_text", StatusCode::NOT_ACCEPTABLE, "The value is not UTF-8 text"),
            Code::RequestTimeout => (
                "request_timeout",
                StatusCode::REQUEST_TIMEOUT,
                "The request did not arrive within its timeout",
            ),
            Code::MalformedRequest => {
                ("malformed_request", StatusCode::BAD_REQUEST, "The request is not valid HTTP/1.1")
            }
            Code::HeadTooLarge => (
                "head_too_large",
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The head of the request is too large",
            ),
            Code::Conflict => ("conflict", StatusCode::CONFLICT, "It contradicts the state of the cluster"),
            Code::WouldLoseQuorum => {
                ("would_lose_quorum", StatusCode::CONFLICT, "The cluster would be left without a quorum")
            }
            Code::CursorExpired => ("cursor_expired", StatusCode::GONE, "The cursor has expired"),
            Code::PreconditionFailed => (
                "precondition_failed",
                StatusCode::PRECONDITION_FAILED,
                "The key is not as the condition wants it",
            ),
            Code::IdempotencyKeyReused => (
                "idempotency_key_reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "The idempotency key belongs to another request",
            ),
            Code::KeyTooLarge => ("key_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The key is too large"),
            Code::ValueTooLarge => {
                ("value_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The value is too large")
            }
            Code::BatchTooLarge => {
                ("batch_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The write is too large")
            }
            Code::BodyTooLarge => ("body_too_large", StatusCode::PAYLOAD_TOO_LARGE, "The body is too large"),
            Code::UnsupportedMediaType => (
                "unsupported_media_type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body's encoding is not supported",
            ),
            Code::Overloaded => {
                ("overloaded", StatusCode::TOO_MANY_REQUESTS, "Too many requests are in flight")
            }
            Code::NoLeader => ("no_leader", StatusCode::SERVICE_UNAVAILABLE, "The cluster has no leader"),
            Code::TooStale => {
                ("too_stale", StatusCode::SERVICE_UNAVAILABLE, "The node is staler than the read allows")
            }
            Code::Behind => ("behind", StatusCode::SERVICE_UNAVAILABLE, "The node lags behind"),
            Code::Starting => {
                ("starting", StatusCode::SERVICE_UNAVAILABLE, "The node is starting or stopping")
            }
            Code::OutcomeUnknown => {
                ("outcome_unknown", StatusCode::GATEWAY_TIMEOUT, "The outcome is unknown")
            }
            Code::OutOfSpace => ("out_of_space", StatusCode::INSUFFICIENT_STORAGE, "The disk is nearly full"),
            Code::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "The node failed"),
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        self.row().0
    }

    pub(crate) fn status(self) -> StatusCode {
        self.row().1
    }

    /// When a repetition may fare better. `None` where time alone changes nothing.
    pub(crate) fn retry_after_ms(self) -> Option<u64> {
        match self {
            Code::Overloaded => Some(RETRY_OVERLOADED_MS),
            Code::NoLeader => Some(RETRY_NO_LEADER_MS),
            Code::Behind | Code::TooStale => Some(RETRY_BEHIND_MS),
            Code::Starting => Some(RETRY_STARTING_MS),
            Code::InvalidJson
            | Code::InvalidKey
            | Code::InvalidParameter
            | Code::KeyNotFound
            | Code::NoSuchRoute
            | Code::NoSuchMember
            | Code::WriteNotKnown
            | Code::MethodNotAllowed
            | Code::NotText
            | Code::RequestTimeout
            | Code::MalformedRequest
            | Code::HeadTooLarge
            | Code::Conflict
            | Code::WouldLoseQuorum
            | Code::CursorExpired
            | Code::PreconditionFailed
            | Code::IdempotencyKeyReused
            | Code::KeyTooLarge
            | Code::ValueTooLarge
            | Code::BatchTooLarge
            | Code::BodyTooLarge
            | Code::UnsupportedMediaType
            | Code::OutcomeUnknown
            | Code::OutOfSpace
            | Code::Internal => None,
        }
    }

    /// Whether naming the leader helps the client to decide where to go next.
    fn names_leader(self) -> bool {
        self.status().is_server_error()
            || matches!(self, Code::Overloaded | Code::Conflict | Code::WouldLoseQuorum)
    }
}

/// What became of a write that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Effect {
    No,
    Unknown,
}

/// One error, before the headers common to every answer are added.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: Cow<'static, str>,
    /// Set on writes only.
    pub(crate) applied: Option<Effect>,
    /// The limit that was met, in its own unit.
    pub(crate) limit: Option<u64>,
    /// The revision that the error reflects.
    pub(crate) revision: Option<Revision>,
    /// Set on reads only.
    pub(crate) consistency: Option<Consistency>,
    /// Revision of the key, with 412 and a key that is present.
    pub(crate) etag: Option<Revision>,
    /// The methods that the route answers, with 405.
    pub(crate) allow: Option<&'static str>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: Urn,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Effect>,
    #[serde(skip_serializing_if = "Option::is_none")]
    leader: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision: Option<Revision>,
}

/// `urn:vaultdb:error:<code>`: a name, not an address, so that it never breaks.
struct Urn(&'static str);

impl Serialize for Urn {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("urn:vaultdb:error:{}", self.0))
    }
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        let detail = detail.into();
        Self {
            code,
            detail,
            applied: None,
            limit: None,
            revision: None,
            consistency: None,
            etag: None,
            allow: None,
        }
    }

    pub(crate) fn with_limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Marks an error of a write. What is already known to be unknown stays so.
    pub(crate) fn of_write(mut self) -> Self {
        self.applied.get_or_insert(Effect::No);
        self
    }

    pub(crate) fn of_read(mut self, consistency: Consistency) -> Self {
        self.consistency = Some(consistency);
        self
    }

    /// The body, with the leader named where that helps.
    pub(crate) fn to_json(&self, leader: Option<&str>) -> Vec<u8> {
        let (code, status, title) = self.code.row();
        let body = Body {
            r#type: Urn(code),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            code,
            applied: self.applied,
            leader: leader.filter(|_| self.code.names_leader()),
            retry_after_ms: self.code.retry_after_ms(),
            limit: self.limit,
            revision: self.revision,
        };
        serde_json::to_vec(&body).expect("strings and numbers always serialise")
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        let code = match &error {
            WriteError::NoLeader => Code::NoLeader,
            WriteError::Overloaded => Code::Overloaded,
            WriteError::Unavailable => Code::Starting,
            WriteError::OutOfSpace(_) => Code::OutOfSpace,
            WriteError::Unknown { .. } => Code::OutcomeUnknown,
        };
        let applied = if error.certainly_not_applied() { Effect::No } else { Effect::Unknown };
        let limit = match &error {
            WriteError::OutOfSpace(shortage) => Some(shortage.needed_bytes),
            WriteError::NoLeader
            | WriteError::Overloaded
            | WriteError::Unavailable
            | WriteError::Unknown { .. } => None,
        };
        Self { applied: Some(applied), limit, ..Problem::new(code, error.to_string()) }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        let (code, revision) = match &error {
            ReadError::NoLeader => (Code::NoLeader, None),
            ReadError::Behind { revision } => (Code::Behind, Some(*revision)),
            ReadError::TooStale { .. } => (Code::TooStale, None),
            ReadError::Overloaded => (Code::Overloaded, None),
            ReadError::Unavailable => (Code::Starting, None),
            ReadError::Store { .. } => (Code::Internal, None),
        };
        Self { revision, ..Problem::new(code, error.to_string()) }
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        let (code, applied) = match &error {
            AdminError::NoLeader => (Code::NoLeader, Effect::No),
            AdminError::Unavailable => (Code::Starting, Effect::No),
            AdminError::Conflict { .. } => (Code::Conflict, Effect::No),
            AdminError::WouldLoseQuorum { .. } => (Code::WouldLoseQuorum, Effect::No),
            AdminError::NoSuchMember { .. } => (Code::NoSuchMember, Effect::No),
            AdminError::Unknown { .. } => (Code::OutcomeUnknown, Effect::Unknown),
        };
        Self { applied: Some(applied), ..Problem::new(code, error.to_string()) }
    }
}

#[cfg(test)]
mod tests {
    use vaultdb_kv::Shortage;

    use super::*;

    /// The body holds what RFC 9457 and the contract name, and nothing that does not apply.
    #[test]
    fn body_holds_what_applies() {
        let unknown = Problem::from(WriteError::unknown("a \"quoted\" reason")).of_write();
        let json: serde_json::Value = serde_json::from_slice(&unknown.to_json(Some("node1"))).expect("JSON");
        assert_eq!(json["type"], "urn:vaultdb:error:outcome_unknown");
        assert_eq!(json["status"], 504);
        assert_eq!(json["code"], "outcome_unknown");
        assert_eq!(json["applied"], "unknown");
        assert_eq!(json["leader"], "node1");
        assert!(json.get("retry_after_ms").is_none());

        let absent = Problem::new(Code::KeyNotFound, "no");
        let json: serde_json::Value = serde_json::from_slice(&absent.to_json(Some("node1"))).expect("JSON");
        assert!(json.get("applied").is_none() && json.get("leader").is_none() && json.get("limit").is_none());
    }

    /// A write error says "no" exactly when the write certainly never takes effect.
    #[test]
    fn applied_follows_the_error() {
        let errors = [
            WriteError::NoLeader,
            WriteError::Overloaded,
            WriteError::Unavailable,
            WriteError::OutOfSpace(Shortage { node: "node1".into(), free_bytes: 1, needed_bytes: 2 }),
            WriteError::unknown("x"),
        ];
        for error in errors {
            let certain = error.certainly_not_applied();
            let problem = Problem::from(error).of_write();
            assert_eq!(problem.applied == Some(Effect::No), certain, "{problem:?}");
        }
    }
}
