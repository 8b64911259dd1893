//! Writes that are answered early, `?ack=leader`, and what became of them: `/v1/writes/{term}-{log_index}`.

use std::time::Instant;

use actix_web::http::header::HeaderValue;
use actix_web::http::StatusCode;
use serde::Serialize;
use vaultdb_kv::{Revision, Write, WriteError};

use crate::app::{by_deadline, Call, Worker};
use crate::backend::Backend;
use crate::data::silent;
use crate::key_path::echo;
use crate::model::{EntryFate, LogId};
use crate::problem::{Code, Problem};
use crate::reply::Reply;

#[derive(Serialize)]
struct Accepted {
    accepted: bool,
    log_index: u64,
    term: u64,
}

#[derive(Serialize)]
struct State {
    state: &'static str,
    term: u64,
    log_index: u64,
    revision: Revision,
}

impl<B: Backend> Worker<B> {
    /// Does a write that is answered once the leader has it on its own disk.
    pub(crate) async fn accept(&self, write: Write, deadline: Instant) -> Result<Reply, Problem> {
        let answer = by_deadline(deadline, self.backend.accept(write.into(), deadline)).await;
        let silent = || Err(WriteError::unknown("no answer within the request's timeout"));
        let LogId { term, index } = answer.unwrap_or_else(silent)?;
        let mut reply = Reply::json_of(&Accepted { accepted: true, log_index: index, term });
        reply.status = StatusCode::ACCEPTED;
        // Where to ask what became of it (RFC 9110, section 15.3.3).
        reply.location = HeaderValue::from_str(&format!("/v1/writes/{term}-{index}")).ok();
        Ok(reply)
    }

    /// `GET /v1/writes/{term}-{log_index}`.
    pub(crate) async fn write_state(&self, call: Call<'_>) -> Result<Reply, Problem> {
        let _permit = self.shared.admission.admit()?;
        let params = call.params()?;
        let freshness = params.freshness(self.shared.options.read_consistency)?;
        let consistency = freshness.consistency;
        let entry = entry(call.raw_key).map_err(|problem| problem.of_read(consistency))?;
        let deadline = call.deadline(&params, self.shared.options.request_timeout);
        let answer = by_deadline(deadline, self.backend.fate(entry, freshness, deadline)).await;
        let answer = answer.unwrap_or_else(|| Err(silent(consistency)));
        let (fate, revision) = answer.map_err(|error| Problem::from(error).of_read(consistency))?;
        let LogId { term, index: log_index } = entry;
        let state = match fate {
            EntryFate::Pending => "pending",
            EntryFate::Committed => "committed",
            EntryFate::Lost => "lost",
            EntryFate::Forgotten => {
                let detail =
                    format!("log index {log_index} was applied too long ago to tell of which term it was");
                let problem = Problem::new(Code::WriteNotKnown, detail).of_read(consistency);
                return Err(Problem { revision: Some(revision), ..problem });
            }
        };
        let mut reply = Reply::json_of(&State { state, term, log_index, revision }).at(revision);
        reply.consistency = Some(consistency);
        Ok(reply)
    }
}

/// Reads `{term}-{log_index}`.
fn entry(raw: &str) -> Result<LogId, Problem> {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let id = raw.split_once('-').and_then(|(term, index)| Some((number(term)?, number(index)?)));
    let (term, index) = id.ok_or_else(|| {
        let detail = format!("{} is not the id of a write: <term>-<log_index>", echo(raw.as_bytes()));
        Problem::new(Code::InvalidParameter, detail)
    })?;
    Ok(LogId { term, index })
}
