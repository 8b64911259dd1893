//! Routes that read and write keys: `/key`, `/key/{key}`, `/v1/kv/{key}`.

use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use actix_web::http::header::HeaderValue;
use actix_web::http::StatusCode;
use bytes::Bytes;
use tokio::time::{sleep_until, Instant as TimerInstant};
use vaultdb_kv::limits::{BATCH_BYTES_MAX, KEY_BYTES_MAX};
use vaultdb_kv::{
    failpoint, Applied, ApplyResult, Consistency, Freshness, Key, ReadError, Revision, Versioned, Write,
    WriteError,
};

use crate::admission::Permit;
use crate::app::{by_deadline, Call, Worker};
use crate::backend::Backend;
use crate::body::{read_body, BodyLimit};
use crate::guards::{is_current, Guards};
use crate::json;
use crate::key_path::{echo, key_from_path, text_key_from_path};
use crate::model::ReadAnswer;
use crate::params::{Ack, Params};
use crate::problem::{Code, Effect, Problem};
use crate::reply::{Content, Media, Reply};

/// How many bytes of JSON one byte of a key or value may take: a two-byte letter that a client writes
/// as `\u00e9`. Control characters may take twice that; a batch at the limit made of them is refused.
const JSON_ESCAPE_FACTOR: usize = 3;
/// Room for braces, quotes, commas and white space around the pairs, in bytes.
const JSON_FRAME_BYTES: usize = 64 * 1024;
/// How often a redirected write looks for the end of an election.
const LEADER_POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A condition and a name are looked at when the write is applied, long after the answer.
const EARLY_AND_GUARDED: &str = "ack: leader answers before it is known whether a condition holds or an \
                                 Idempotency-Key is new, so it goes with neither";

/// How a write goes on after its preamble.
enum Start {
    Here(Begun),
    Redirect(Reply),
}

/// A write that is to be done here.
struct Begun {
    permit: Permit,
    guards: Guards,
    ack: Ack,
    deadline: Instant,
}

/// A read before it is answered.
struct Read {
    consistency: Consistency,
    revision: Revision,
    found: Versioned,
}

impl<B: Backend> Worker<B> {
    /// `POST /key`: all pairs in one atomic write.
    pub(crate) async fn set_pairs(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        let Begun { permit, guards, ack, deadline } = match self.start_write(&call).await? {
            Start::Here(begun) => begun,
            Start::Redirect(reply) => return Ok(reply),
        };
        let guards = guards.without_conditions()?;
        let limits = self.shared.options.limits;
        let payload_bytes_max = BATCH_BYTES_MAX.max(KEY_BYTES_MAX + limits.value_bytes_max);
        let limit = BodyLimit {
            bytes_max: payload_bytes_max * JSON_ESCAPE_FACTOR + JSON_FRAME_BYTES,
            code: Code::BatchTooLarge,
            noun: "the JSON of the write",
        };
        let body = read_body(call.http.headers(), payload, limit, &permit, deadline).await?;
        let pairs = json::parse_pairs(&body, &limits)?;
        drop(body);
        let write = Write::Set { pairs };
        if ack == Ack::Leader {
            return self.accept(write, deadline).await;
        }
        let applied = self.submit(write, guards, deadline).await?;
        Ok(revision_reply(applied.revision))
    }

    /// `PUT /v1/kv/{key}`: the body is the value.
    pub(crate) async fn put_raw(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        let Begun { permit, guards, ack, deadline } = match self.start_write(&call).await? {
            Start::Here(begun) => begun,
            Start::Redirect(reply) => return Ok(reply),
        };
        let key = key_from_path(call.raw_key)?;
        let limit = BodyLimit {
            bytes_max: self.shared.options.limits.value_bytes_max,
            code: Code::ValueTooLarge,
            noun: "the value",
        };
        let mut value = read_body(call.http.headers(), payload, limit, &permit, deadline).await?;
        value.shrink_to_fit();
        let write = Write::Set { pairs: vec![(key, value.into())] };
        if ack == Ack::Leader {
            return self.accept(write, deadline).await;
        }
        let applied = self.submit(write, guards, deadline).await?;
        let mut reply = revision_reply(applied.revision);
        // What a client that chains compare and set gives to the next one.
        reply.etag = Some(applied.revision);
        Ok(reply)
    }

    /// `DELETE /key/{key}` and `DELETE /v1/kv/{key}`.
    pub(crate) async fn delete(&self, call: Call<'_>, text_only: bool) -> Result<Reply, Problem> {
        let Begun { permit: _permit, guards, ack, deadline } = match self.start_write(&call).await? {
            Start::Here(begun) => begun,
            Start::Redirect(reply) => return Ok(reply),
        };
        let key = if text_only { text_key_from_path(call.raw_key)? } else { key_from_path(call.raw_key)? };
        let write = Write::Delete { key };
        if ack == Ack::Leader {
            return self.accept(write, deadline).await;
        }
        let Applied { revision, result } = self.submit(write, guards, deadline).await?;
        let deleted = match result {
            ApplyResult::Deleted { existed } => existed,
            ApplyResult::None
            | ApplyResult::Set
            | ApplyResult::NodeRegistered { .. }
            | ApplyResult::ConditionFailed { .. }
            | ApplyResult::AttemptReused => {
                let reason = "the answer belongs to another kind of command";
                return Err(WriteError::unknown(reason).into());
            }
        };
        Ok(Reply::json(format!("{{\"deleted\":{deleted},\"revision\":{revision}}}")).at(revision))
    }

    /// `GET /v1/kv/{key}`: the value's bytes.
    pub(crate) async fn get_raw(&self, call: Call<'_>) -> Result<Reply, Problem> {
        let read = self.read(&call, key_from_path).await?.1;
        if is_current(call.http.headers(), read.found.revision) {
            return Ok(read.not_modified(Media::Raw));
        }
        let value = read.found.value.clone();
        Ok(read.reply(Media::Raw, value))
    }

    /// `GET /key/{key}`: `{"key":"value"}`.
    pub(crate) async fn get_json(&self, call: Call<'_>) -> Result<Reply, Problem> {
        let (key, read) = self.read(&call, text_key_from_path).await?;
        if is_current(call.http.headers(), read.found.revision) {
            return Ok(read.not_modified(Media::Json));
        }
        match pair_json(key.as_bytes(), &read.found.value) {
            Some(body) => Ok(read.reply(Media::Json, body.into())),
            None => {
                let detail = format!(
                    "the value of {} is not UTF-8: JSON cannot hold it, use /v1/kv/{{key}}",
                    echo(key.as_bytes())
                );
                let problem = Problem::new(Code::NotText, detail).of_read(read.consistency);
                Err(Problem { revision: Some(read.revision), ..problem })
            }
        }
    }

    async fn read(
        &self,
        call: &Call<'_>,
        key_of: fn(&str) -> Result<Key, Problem>,
    ) -> Result<(Key, Read), Problem> {
        let _permit = self.shared.admission.admit()?;
        let params = call.params()?;
        let freshness = params.freshness(self.shared.options.read_consistency)?;
        let consistency = freshness.consistency;
        let key = key_of(call.raw_key).map_err(|problem| problem.of_read(consistency))?;
        let deadline = call.deadline(&params, self.shared.options.request_timeout);
        let answer = self.read_by(key.clone(), freshness, deadline).await;
        let answer = answer.map_err(|error| Problem::from(error).of_read(consistency))?;
        let revision = answer.revision;
        match answer.found {
            Some(found) => Ok((key, Read { consistency, revision, found })),
            None => {
                let detail = format!("the key {} is absent", echo(key.as_bytes()));
                let problem = Problem::new(Code::KeyNotFound, detail).of_read(consistency);
                Err(Problem { revision: Some(revision), ..problem })
            }
        }
    }

    pub(crate) async fn read_by(
        &self,
        key: Key,
        freshness: Freshness,
        deadline: Instant,
    ) -> Result<ReadAnswer, ReadError> {
        let answer = by_deadline(deadline, self.backend.read(key, freshness, deadline)).await;
        answer.unwrap_or_else(|| Err(silent(freshness.consistency)))
    }

    /// Does a write; a condition that does not hold and a name that is taken are errors.
    async fn submit(&self, write: Write, guards: Guards, deadline: Instant) -> Result<Applied, Problem> {
        let has_key = guards.has_key();
        let answer = by_deadline(deadline, self.backend.submit(guards.command(write), deadline)).await;
        let silent = || Err(WriteError::unknown("no answer within the request's timeout"));
        let applied = answer.unwrap_or_else(silent).map_err(|error| write_problem(error, has_key))?;
        match applied.result {
            ApplyResult::None
            | ApplyResult::Set
            | ApplyResult::Deleted { .. }
            | ApplyResult::NodeRegistered { .. } => {
                failpoint::reach("answer-unwritten");
                Ok(applied)
            }
            ApplyResult::ConditionFailed { current } => Err(Problem {
                etag: current,
                revision: Some(applied.revision),
                applied: Some(Effect::No),
                ..Problem::new(Code::PreconditionFailed, failed_condition(current))
            }),
            ApplyResult::AttemptReused => {
                let detail = "an earlier request with this Idempotency-Key asked for something else";
                Err(Problem {
                    revision: Some(applied.revision),
                    applied: Some(Effect::No),
                    ..Problem::new(Code::IdempotencyKeyReused, detail)
                })
            }
        }
    }

    /// What every write begins with: admission, parameters, and where to do it.
    async fn start_write(&self, call: &Call<'_>) -> Result<Start, Problem> {
        let permit = self.shared.admission.admit()?;
        let params: Params = call.params()?;
        let guards = Guards::read(call.http.headers())?;
        let ack = params.ack.unwrap_or(Ack::Majority);
        if ack == Ack::Leader && !guards.is_empty() {
            return Err(Problem::new(Code::InvalidParameter, EARLY_AND_GUARDED));
        }
        let deadline = call.deadline(&params, self.shared.options.request_timeout);
        if params.redirect == Some(true) {
            if let Some(reply) = self.redirect(call, deadline).await? {
                return Ok(Start::Redirect(reply));
            }
        }
        failpoint::reach("write-received");
        Ok(Start::Here(Begun { permit, guards, ack, deadline }))
    }

    /// The way to the leader, or `None` when the write is to be done here: this node leads, or the
    /// leader told no HTTP address, and then forwarding still serves the client.
    async fn redirect(&self, call: &Call<'_>, deadline: Instant) -> Result<Option<Reply>, Problem> {
        let leadership = loop {
            let leadership = self.backend.leadership();
            if leadership.is_local || leadership.leader.is_some() {
                break leadership;
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(WriteError::NoLeader.into());
            }
            sleep_until(TimerInstant::from(deadline.min(now + LEADER_POLL_INTERVAL))).await;
        };
        let elsewhere = leadership.leader.as_ref().filter(|_| !leadership.is_local);
        let Some(leader) = elsewhere.filter(|leader| !leader.addr.http.is_empty()) else {
            return Ok(None);
        };
        let target = call.http.uri().path_and_query().map_or("/", |target| target.as_str());
        let location = format!("http://{}{target}", leader.addr.http);
        let Ok(header) = HeaderValue::from_str(&location) else {
            return Ok(None);
        };
        let body = serde_json::json!({ "leader": leader.name, "location": location });
        let mut reply = Reply::json_of(&body);
        reply.status = StatusCode::TEMPORARY_REDIRECT;
        reply.location = Some(header);
        Ok(Some(reply))
    }
}

impl Read {
    /// The client has this revision already.
    fn not_modified(self, media: Media) -> Reply {
        // An empty body would tell its own length, not the value's.
        let content = Content::Untold;
        Reply { status: StatusCode::NOT_MODIFIED, content, ..self.reply(media, Bytes::new()) }
    }

    fn reply(self, media: Media, body: Bytes) -> Reply {
        let mut reply = Reply::new(media, body).at(self.revision);
        reply.consistency = Some(self.consistency);
        reply.etag = Some(self.found.revision);
        reply
    }
}

/// What a node that did not answer in time must have been waiting for.
pub(crate) fn silent(consistency: Consistency) -> ReadError {
    match consistency {
        Consistency::Linearizable | Consistency::Lease => ReadError::NoLeader,
        // It needs nobody else, so its own store did not answer.
        Consistency::Stale => ReadError::Unavailable,
    }
}

fn failed_condition(current: Option<Revision>) -> String {
    match current {
        Some(revision) => format!("the key is at revision {revision}, which the condition excludes"),
        None => "the key is absent, which the condition excludes".to_owned(),
    }
}

/// An unknown outcome says how to come to know it.
fn write_problem(error: WriteError, has_key: bool) -> Problem {
    let mut problem = Problem::from(error);
    if problem.applied == Some(Effect::Unknown) {
        problem.detail.to_mut().push_str(match has_key {
            true => "; repeat it with the same Idempotency-Key: it is applied at most once",
            false => "; a write that carries an Idempotency-Key may be repeated with the same one",
        });
    }
    problem
}

fn revision_reply(revision: Revision) -> Reply {
    Reply::json(format!("{{\"revision\":{revision}}}")).at(revision)
}

/// `{"key":"value"}`, or `None` when one of them is not UTF-8.
fn pair_json(key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
    let (key, value) = (std::str::from_utf8(key).ok()?, std::str::from_utf8(value).ok()?);
    let mut json = Vec::with_capacity(key.len() + value.len() + 8);
    json.push(b'{');
    serde_json::to_writer(&mut json, key).expect("a string always serialises");
    json.push(b':');
    serde_json::to_writer(&mut json, value).expect("a string always serialises");
    json.push(b'}');
    Some(json)
}
