//! `/livez` and `/readyz`: may this process go on, and may it be sent requests.

use std::fmt::Write;
use std::time::Duration;

use actix_web::http::StatusCode;

use crate::app::{by_deadline, Call, Worker};
use crate::backend::Backend;
use crate::model::CheckResult;
use crate::problem::{Code, Problem};
use crate::reply::{Media, Reply};

/// How long the checks may take unless `?timeout=` says otherwise: less than the time after which a
/// container engine gives a probe up, so that the reason reaches its log.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

impl<B: Backend> Worker<B> {
    /// `GET /livez`: the process and its own store answer.
    pub(crate) async fn livez(&self, call: Call<'_>) -> Result<Reply, Problem> {
        self.check(call, |check| check.liveness).await
    }

    /// `GET /readyz`: also a linearizable read succeeds and the node is a voter.
    pub(crate) async fn readyz(&self, call: Call<'_>) -> Result<Reply, Problem> {
        self.check(call, |_| true).await
    }

    async fn check(&self, call: Call<'_>, counts: fn(&CheckResult) -> bool) -> Result<Reply, Problem> {
        let params = call.params()?;
        let deadline = call.deadline(&params, CHECK_TIMEOUT);
        let mut checks = by_deadline(deadline, self.backend.health()).await.unwrap_or_else(no_answer);
        checks.retain(counts);
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
        Err(Problem::new(Code::Starting, reasons.join("; ")))
    }
}

fn no_answer() -> Vec<CheckResult> {
    let reason = Some("no answer in time".to_owned());
    vec![CheckResult { name: "health", ok: false, reason, liveness: true }]
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
