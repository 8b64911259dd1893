//! Answers: from what a route says to the response with the headers that every answer carries.

use std::cell::RefCell;
use std::io::{self, Write};
use std::sync::Arc;

use actix_web::body::{BodyStream, BoxBody, None as NoBody};
use actix_web::http::header::{
    HeaderMap, HeaderName, HeaderValue, ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, LOCATION, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::StatusCode;
use actix_web::HttpResponse;
use bytes::Bytes;
use futures::stream::LocalBoxStream;
use vaultdb_kv::{Consistency, Revision};

use crate::dashboard;
use crate::model::Leadership;
use crate::problem::Problem;

const VAULT_NODE: HeaderName = HeaderName::from_static("vault-node");
const VAULT_LEADER: HeaderName = HeaderName::from_static("vault-leader");
const VAULT_TERM: HeaderName = HeaderName::from_static("vault-term");
const VAULT_REVISION: HeaderName = HeaderName::from_static("vault-revision");
/// Digits of the largest revision.
const REVISION_DIGITS_MAX: usize = 20;
const VAULT_CONSISTENCY: HeaderName = HeaderName::from_static("vault-consistency");

/// What a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    /// One JSON value a line.
    Ndjson,
    /// Server-sent events.
    EventStream,
    Problem,
    Raw,
    Text,
    /// Prometheus text exposition format.
    Metrics,
    Html,
}

impl Media {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Media::Json => "application/json",
            Media::Ndjson => "application/x-ndjson",
            Media::EventStream => "text/event-stream",
            Media::Problem => "application/problem+json",
            Media::Raw => "application/octet-stream",
            Media::Text => "text/plain; charset=utf-8",
            Media::Metrics => "text/plain; version=0.0.4; charset=utf-8",
            Media::Html => "text/html; charset=utf-8",
        }
    }
}

/// What follows the head of an answer.
pub(crate) enum Content {
    Bytes(Bytes),
    /// Of unknown length. An error aborts the connection.
    Stream(LocalBoxStream<'static, io::Result<Bytes>>),
    /// Nothing, and nothing is said of its length.
    Untold,
}

/// An answer that is no error.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) media: Media,
    pub(crate) content: Content,
    /// The state that the answer reflects; the local store's as it is now where nothing is said.
    pub(crate) revision: Option<Revision>,
    pub(crate) consistency: Option<Consistency>,
    /// Revision of the key.
    pub(crate) etag: Option<Revision>,
    pub(crate) location: Option<HeaderValue>,
    /// How a browser is to save it.
    pub(crate) disposition: Option<HeaderValue>,
}

impl Reply {
    pub(crate) fn new(media: Media, body: impl Into<Bytes>) -> Self {
        Self::with(media, Content::Bytes(body.into()))
    }

    pub(crate) fn with(media: Media, content: Content) -> Self {
        Self {
            status: StatusCode::OK,
            media,
            content,
            revision: None,
            consistency: None,
            etag: None,
            location: None,
            disposition: None,
        }
    }

    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::new(Media::Json, body)
    }

    /// An answer whose JSON is not on a hot path.
    pub(crate) fn json_of(value: &impl serde::Serialize) -> Self {
        Self::json(serde_json::to_vec(value).expect("plain data always serialises"))
    }

    pub(crate) fn at(mut self, revision: Revision) -> Self {
        self.revision = Some(revision);
        self
    }

    /// The response without the headers that every answer carries.
    fn into_response(self) -> HttpResponse {
        let mut response = HttpResponse::with_body(self.status, self.content.into_body());
        let headers = response.headers_mut();
        match self.media {
            // Values are whatever clients stored: no browser may guess that one is a page.
            Media::Raw => {
                headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            }
            Media::Html => {
                headers.insert(CONTENT_SECURITY_POLICY, dashboard::policy());
                headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
                headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            }
            Media::Json
            | Media::Ndjson
            | Media::EventStream
            | Media::Problem
            | Media::Text
            | Media::Metrics => {}
        }
        if let Some(revision) = self.etag {
            headers.insert(ETAG, etag(revision));
        }
        if let Some(location) = self.location {
            headers.insert(LOCATION, location);
        }
        if let Some(disposition) = self.disposition {
            headers.insert(CONTENT_DISPOSITION, disposition);
        }
        response
    }
}

impl Content {
    fn into_body(self) -> BoxBody {
        match self {
            Content::Bytes(body) => BoxBody::new(body),
            Content::Stream(body) => BoxBody::new(BodyStream::new(body)),
            Content::Untold => BoxBody::new(NoBody::new()),
        }
    }
}

/// What goes onto every answer of one web worker.
pub(crate) struct Stamp {
    node: HeaderValue,
    /// Header values of the leadership that was met last; it changes rarely and is asked for always.
    cached: RefCell<Option<LeaderHeaders>>,
}

#[derive(Clone)]
struct LeaderHeaders {
    of: Arc<Leadership>,
    leader: Option<HeaderValue>,
    term: HeaderValue,
}

impl Stamp {
    pub(crate) fn new(node_name: &str) -> Self {
        let node = HeaderValue::from_str(node_name).unwrap_or(HeaderValue::from_static(""));
        Self { node, cached: RefCell::new(None) }
    }

    /// Makes the response of an answer. `revision_now` is asked only when the answer names none.
    pub(crate) fn respond(
        &self,
        answer: Result<Reply, Problem>,
        leadership: Arc<Leadership>,
        revision_now: impl FnOnce() -> Revision,
    ) -> HttpResponse {
        match answer {
            Ok(reply) => {
                let (media, consistency) = (reply.media, reply.consistency);
                let revision = reply.revision.unwrap_or_else(revision_now);
                let mut response = reply.into_response();
                self.put(response.headers_mut(), leadership, revision);
                put_common(response.headers_mut(), media, consistency);
                response
            }
            Err(problem) => {
                let leader = leadership.leader.as_ref().map(|leader| leader.name.as_str());
                let body = BoxBody::new(problem.to_json(leader));
                let mut response = HttpResponse::with_body(problem.code.status(), body);
                let headers = response.headers_mut();
                self.put(headers, leadership, problem.revision.unwrap_or_else(revision_now));
                put_common(headers, Media::Problem, problem.consistency);
                if let Some(ms) = problem.code.retry_after_ms() {
                    // The header knows whole seconds only; the body tells milliseconds.
                    headers.insert(RETRY_AFTER, HeaderValue::from(ms.div_ceil(1_000)));
                }
                if let Some(revision) = problem.etag {
                    headers.insert(ETAG, etag(revision));
                }
                if let Some(allow) = problem.allow {
                    headers.insert(ALLOW, HeaderValue::from_static(allow));
                }
                response
            }
        }
    }

    /// The header lines of a problem whose head is written by hand, and its body.
    pub(crate) fn plain(
        &self,
        problem: &Problem,
        leadership: Arc<Leadership>,
        revision: Revision,
    ) -> (String, Vec<u8>) {
        let leader = leadership.leader.as_ref().map(|leader| leader.name.as_str());
        let leader_line = leader.map_or(String::new(), |name| format!("{VAULT_LEADER}: {name}\r\n"));
        let lines = format!(
            "{CONTENT_TYPE}: {}\r\n{CACHE_CONTROL}: no-store\r\n{VAULT_NODE}: {}\r\n{leader_line}\
             {VAULT_TERM}: {}\r\n{VAULT_REVISION}: {revision}\r\n",
            Media::Problem.as_str(),
            self.node.to_str().unwrap_or_default(),
            leadership.term,
        );
        (lines, problem.to_json(leader))
    }

    fn put(&self, headers: &mut HeaderMap, leadership: Arc<Leadership>, revision: Revision) {
        let of_leader = self.leader_headers(leadership);
        headers.insert(VAULT_NODE, self.node.clone());
        if let Some(leader) = of_leader.leader {
            headers.insert(VAULT_LEADER, leader);
        }
        headers.insert(VAULT_TERM, of_leader.term);
        headers.insert(VAULT_REVISION, HeaderValue::from(revision));
    }

    fn leader_headers(&self, leadership: Arc<Leadership>) -> LeaderHeaders {
        let mut cached = self.cached.borrow_mut();
        if let Some(headers) = cached.as_ref().filter(|headers| Arc::ptr_eq(&headers.of, &leadership)) {
            return headers.clone();
        }
        let leader = leadership.leader.as_ref();
        let headers = LeaderHeaders {
            leader: leader.and_then(|leader| HeaderValue::from_str(&leader.name).ok()),
            term: HeaderValue::from(leadership.term),
            of: leadership,
        };
        *cached = Some(headers.clone());
        headers
    }
}

fn put_common(headers: &mut HeaderMap, media: Media, consistency: Option<Consistency>) {
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media.as_str()));
    // An intermediary that answered from its own memory would break every promise of consistency.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(consistency) = consistency {
        headers.insert(VAULT_CONSISTENCY, HeaderValue::from_static(consistency.as_str()));
    }
}

fn etag(revision: Revision) -> HeaderValue {
    let mut text = [0; REVISION_DIGITS_MAX + 2];
    let mut rest = &mut text[..];
    write!(rest, "\"{revision}\"").expect("a revision and its quotes fit");
    let unused = rest.len();
    HeaderValue::from_bytes(&text[..text.len() - unused]).expect("digits in quotes are a header value")
}
