//! Routes that look at the cluster and change it: `/status`, `/join`, `/v1/members`, `/v1/leader`.

use actix_web::dev::Payload;
use serde::Serialize;
use vaultdb_kv::member::{check_address, check_node_name};
use vaultdb_kv::{AdminError, MemberAddr, NodeId, Revision, Role};

use crate::admission::Permit;
use crate::app::{by_deadline, Call, Worker};
use crate::backend::Backend;
use crate::body::{read_body, BodyLimit};
use crate::guards::refuse_guards;
use crate::json::{parse, JoinBody, LeaderBody};
use crate::model::{JoinRequest, MemberOrder, MemberReply};
use crate::params::Ack;
use crate::problem::{Code, Problem};
use crate::reply::Reply;
use crate::status::{MembersView, StatusView};

/// Largest body of an administrative request, in bytes: a few names and addresses.
const ADMIN_BODY: BodyLimit = BodyLimit { bytes_max: 64 * 1024, code: Code::BodyTooLarge, noun: "the body" };
/// Longest `instance` of a join request, in bytes: twice a UUID in text.
const INSTANCE_BYTES_MAX: usize = 72;

#[derive(Serialize)]
struct Joined<'a> {
    cluster_id: &'a str,
    id: NodeId,
    name: &'a str,
    revision: Revision,
}

#[derive(Serialize)]
struct NewLeader<'a> {
    leader: &'a str,
}

#[derive(Serialize)]
struct Removed<'a> {
    removed: bool,
    name: &'a str,
    id: NodeId,
}

#[derive(Serialize)]
struct Promoted<'a> {
    name: &'a str,
    id: NodeId,
    role: Role,
    /// Whether it was none before.
    changed: bool,
}

impl<B: Backend> Worker<B> {
    /// `GET /status`: from memory, so also without a quorum.
    pub(crate) async fn status(&self) -> Reply {
        let status = self.backend.status().await;
        Reply::json_of(&StatusView::of(&status)).at(status.store.revision)
    }

    /// `GET /v1/members`: the members of `/status`.
    pub(crate) async fn members(&self, call: Call<'_>) -> Result<Reply, Problem> {
        let _permit = self.shared.admission.admit()?;
        call.params()?;
        let status = self.backend.status().await;
        match &status.cluster {
            Some(cluster) => Ok(Reply::json_of(&MembersView::of(cluster)).at(status.store.revision)),
            None => Err(Problem::new(Code::Starting, "the node belongs to no cluster yet")),
        }
    }

    /// `POST /join`.
    pub(crate) async fn join(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        let permit = self.shared.admission.admit()?;
        let (body, deadline) = self.admin_body(&call, payload, &permit).await?;
        let request = join_request(parse(&body)?)?;
        let name = request.name.clone();
        let answer = by_deadline(deadline, self.backend.join(request, deadline)).await;
        let joined = answer.unwrap_or_else(silent)?;
        let reply =
            Joined { cluster_id: &joined.cluster_id, id: joined.id, name: &name, revision: joined.revision };
        Ok(Reply::json_of(&reply).at(joined.revision))
    }

    /// `POST /v1/leader`.
    pub(crate) async fn transfer_leader(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        let permit = self.shared.admission.admit()?;
        let (body, deadline) = self.admin_body(&call, payload, &permit).await?;
        let to = if body.trim_ascii().is_empty() { None } else { parse::<LeaderBody>(&body)?.name };
        if let Some(name) = &to {
            check_node_name(name)?;
        }
        let answer = by_deadline(deadline, self.backend.transfer_leader(to, deadline)).await;
        let leader = answer.unwrap_or_else(silent)?;
        Ok(Reply::json_of(&NewLeader { leader: &leader }))
    }

    /// `DELETE /v1/members/{name}`.
    pub(crate) async fn remove_member(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        let name = call.raw_key.to_owned();
        let reply = self.change_member(&call, payload, MemberOrder::Remove { name }).await?;
        Ok(Reply::json_of(&Removed { removed: true, name: &reply.name, id: reply.id }))
    }

    /// `POST /v1/members/{name}/promote`.
    pub(crate) async fn promote_member(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        let name = call.raw_key.to_owned();
        let MemberReply { name, id, changed } =
            self.change_member(&call, payload, MemberOrder::Promote { name }).await?;
        Ok(Reply::json_of(&Promoted { name: &name, id, role: Role::Voter, changed }))
    }

    /// A body says nothing here; what comes is read so that the connection can go on.
    async fn change_member(
        &self,
        call: &Call<'_>,
        payload: Payload,
        order: MemberOrder,
    ) -> Result<MemberReply, Problem> {
        let permit = self.shared.admission.admit()?;
        check_node_name(call.raw_key)?;
        let (_, deadline) = self.admin_body(call, payload, &permit).await?;
        let answer = by_deadline(deadline, self.backend.change_member(order, deadline)).await;
        Ok(answer.unwrap_or_else(silent)?)
    }

    pub(crate) async fn admin_body(
        &self,
        call: &Call<'_>,
        payload: Payload,
        permit: &Permit,
    ) -> Result<(Vec<u8>, std::time::Instant), Problem> {
        let params = call.params()?;
        if params.ack == Some(Ack::Leader) {
            return Err(Problem::new(Code::InvalidParameter, "ack: only writes of keys may ask for leader"));
        }
        refuse_guards(call.http.headers(), "on this route")?;
        let deadline = call.deadline(&params, self.shared.options.request_timeout);
        let body = read_body(call.http.headers(), payload, ADMIN_BODY, permit, deadline).await?;
        Ok((body, deadline))
    }
}

fn join_request(body: JoinBody) -> Result<JoinRequest, Problem> {
    check_node_name(&body.id)?;
    check_address(&body.addr)?;
    let http = body.http_addr.unwrap_or_default();
    if !http.is_empty() {
        check_address(&http)?;
    }
    if body.instance.as_ref().is_some_and(|instance| instance.len() > INSTANCE_BYTES_MAX) {
        let detail = format!("instance: has more than {INSTANCE_BYTES_MAX} bytes");
        return Err(Problem::new(Code::InvalidParameter, detail));
    }
    let addr = MemberAddr { raft: body.addr, http };
    Ok(JoinRequest { name: body.id, addr, instance: body.instance, stays_learner: body.learner })
}

fn silent<T>() -> Result<T, AdminError> {
    Err(AdminError::Unknown { reason: "no answer within the request's timeout".to_owned() })
}
