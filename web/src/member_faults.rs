//! `/v1/members/{name}/faults`: the fault injection of any member, through this node.
//!
//! A browser may talk only to the node that served its page. Only with fault injection on; without it there
//! is no such route.

use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use vaultdb_kv::member::check_node_name;

use crate::app::{no_such_route, Call, Worker};
use crate::backend::Backend;
use crate::problem::{Code, Problem};
use crate::reply::{Media, Reply};
use crate::route::Verb;

/// How long the member may take: faults are injected at once.
const MEMBER_PATIENCE: Duration = Duration::from_secs(2);

impl<B: Backend> Worker<B> {
    /// Hands the request to `/v1/faults` of the member and its answer back.
    pub(crate) async fn member_faults(
        &self,
        call: Call<'_>,
        payload: Payload,
        verb: Verb,
    ) -> Result<Reply, Problem> {
        if !self.backend.may_inject_faults() {
            return Err(no_such_route(call.http));
        }
        let permit = self.shared.admission.admit()?;
        let name = call.raw_key;
        check_node_name(name)?;
        let (body, deadline) = self.admin_body(&call, payload, &permit).await?;
        let address = self.http_address(name).await?;
        let method = if verb == Verb::Head { Verb::Get } else { verb }.as_str();
        let deadline = deadline.min(Instant::now() + MEMBER_PATIENCE);
        let asked = self.backend.ask_member(address, format!("{method} /v1/faults"), body, deadline).await;
        let answer = asked.map_err(|reason| {
            Problem::new(Code::OutcomeUnknown, format!("{name} did not answer: {reason}"))
        })?;
        let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::BAD_GATEWAY);
        let media = if status.is_success() { Media::Json } else { Media::Problem };
        Ok(Reply { status, ..Reply::new(media, answer.body) })
    }

    async fn http_address(&self, name: &str) -> Result<String, Problem> {
        let status = self.backend.status().await;
        let members = status.cluster.map(|cluster| cluster.members).unwrap_or_default();
        let found = members.into_iter().find(|member| member.member.name == name);
        let found =
            found.ok_or_else(|| Problem::new(Code::NoSuchMember, format!("{name} is not a member")))?;
        Ok(found.member.addr.http)
    }
}
