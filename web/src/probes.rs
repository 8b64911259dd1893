//! `/livez` and `/readyz`: may this process go on, and may it be sent requests.

use std::fmt::Write;
use std::time::{Duration, Instant};

use actix_web::http::StatusCode;

use crate::app::{by_deadline, Call, Worker};
use crate::backend::Backend;
use crate::model::{CheckResult, LINEARIZABLE_READ};
use crate::params::Params;
use crate::problem::{Code, Problem};
use crate::reply::{Media, Reply};

/// How long all checks may take unless `?timeout=` says otherwise: less than the time after which a
/// container engine gives a probe up, so that the reason reaches its log.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

impl<B: Backend> Worker<B> {
    /// `GET /livez`: the process and its own store answer.
    pub(crate) async fn livez(&self, call: Call<'_>) -> Result<Reply, Problem> {
        let (params, deadline) = limits(&call)?;
        let checks = by_deadline(deadline, self.backend.liveness(deadline)).await;
        answer(&params, checks.unwrap_or_else(no_answer))
    }

    /// `GET /readyz`: also a linearizable read succeeds and the node is a voter.
    pub(crate) async fn readyz(&self, call: Call<'_>) -> Result<Reply, Problem> {
        let (params, deadline) = limits(&call)?;
        let checks = by_deadline(deadline, self.backend.readiness(deadline)).await;
        answer(&params, checks.unwrap_or_else(no_answer))
    }
}

fn limits(call: &Call<'_>) -> Result<(Params, Instant), Problem> {
    let params = call.params()?;
    let deadline = call.deadline(&params, CHECK_TIMEOUT);
    Ok((params, deadline))
}

fn answer(params: &Params, checks: Vec<CheckResult>) -> Result<Reply, Problem> {
    // A list of any length, but at least one line of it failed when the status says so.
    let failed: Vec<&CheckResult> = checks.iter().filter(|check| !check.ok).collect();
    if params.verbose {
        let mut reply = Reply::new(Media::Text, list(&checks));
        if !failed.is_empty() {
            reply.status = StatusCode::SERVICE_UNAVAILABLE;
        }
        return Ok(reply);
    }
    if failed.is_empty() {
        return Ok(Reply::new(Media::Text, "ok\n"));
    }
    let reasons: Vec<String> =
        failed.iter().map(|check| format!("{}: {}", check.name, reason(check))).collect();
    let code = match failed.iter().any(|check| check.name == LINEARIZABLE_READ) {
        true => Code::NoLeader,
        false => Code::Starting,
    };
    Err(Problem::new(code, reasons.join("; ")))
}

fn no_answer() -> Vec<CheckResult> {
    let reason = Some("no answer in time".to_owned());
    vec![CheckResult { name: "health", ok: false, reason }]
}

fn reason(check: &CheckResult) -> &str {
    check.reason.as_deref().unwrap_or("failed")
}

fn list(checks: &[CheckResult]) -> String {
    let mut text = String::new();
    for check in checks {
        // Writing to a string cannot fail.
        let _ = match check.ok {
            true => writeln!(text, "[+]{} ok", check.name),
            // One line a check, whatever an error's text holds.
            false => writeln!(text, "[-]{} {}", check.name, reason(check).replace(['\r', '\n'], " ")),
        };
    }
    text
}
