//! Reading request bodies: never more than the limit, never past the deadline.

use std::borrow::Cow;
use std::time::Instant;

use actix_web::dev::Payload;
use actix_web::http::header::{HeaderMap, CONTENT_ENCODING, CONTENT_LENGTH};
use futures::StreamExt;
use tokio::time::timeout_at;

use crate::admission::Permit;
use crate::problem::{Code, Problem};

/// Most that is allocated on the word of a `Content-Length` header, in bytes.
const BODY_ALLOCATE_BYTES_MAX: usize = 64 * 1024;

/// How large a body may be, and what to answer to a larger one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimit {
    pub(crate) bytes_max: usize,
    pub(crate) code: Code,
    pub(crate) noun: &'static str,
}

impl BodyLimit {
    fn exceeded(self, bytes: Option<u64>) -> Problem {
        let Self { bytes_max, code, noun } = self;
        let size = bytes.map_or_else(|| "more".to_owned(), |bytes| bytes.to_string());
        let detail = format!("{noun} has {size} bytes, the limit is {bytes_max}");
        Problem::new(code, detail).with_limit(bytes_max as u64)
    }
}

/// Reads the whole body into memory of its own.
///
/// The pieces that actix hands over share its read buffers; keeping them would pin those buffers for as
/// long as the value lives in a cache.
///
/// # Errors
/// 413 with the limit's code (at once when `Content-Length` tells), 408 at the deadline, 415 for a
/// content encoding, 429 when all bodies together pass their limit, 400 for a broken transfer.
pub(crate) async fn read_body(
    headers: &HeaderMap,
    payload: Payload,
    limit: BodyLimit,
    permit: &Permit,
    deadline: Instant,
) -> Result<Vec<u8>, Problem> {
    check_encoding(headers)?;
    let announced = headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if let Some(bytes) = announced.filter(|bytes| *bytes > limit.bytes_max as u64) {
        return Err(limit.exceeded(Some(bytes)));
    }
    let allocate = announced.map_or(0, |bytes| bytes.min(BODY_ALLOCATE_BYTES_MAX as u64) as usize);
    timeout_at(deadline.into(), collect(payload, limit, permit, allocate)).await.unwrap_or_else(|_| {
        Err(Problem::new(Code::RequestTimeout, "the body did not arrive within the request's timeout"))
    })
}

async fn collect(
    mut payload: Payload,
    limit: BodyLimit,
    permit: &Permit,
    allocate: usize,
) -> Result<Vec<u8>, Problem> {
    let mut body = Vec::with_capacity(allocate);
    while let Some(piece) = payload.next().await {
        let piece = piece.map_err(|error| {
            Problem::new(Code::InvalidParameter, format!("the body could not be read: {error}"))
        })?;
        if piece.len() > limit.bytes_max - body.len() {
            return Err(limit.exceeded(None));
        }
        permit.reserve_body(piece.len())?;
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// A compressed value would be stored as it came and be handed out without its `Content-Encoding`.
fn check_encoding(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING) {
        None => Ok(()),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"identity") => Ok(()),
        Some(_) => Err(Problem::new(
            Code::UnsupportedMediaType,
            Cow::Borrowed("Content-Encoding: bodies must be sent without one"),
        )),
    }
}
