//! The only door to consensus. A facade: it holds no Raft state, so restarting it is free.

use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Context, Handler, MessageResult, Response};
use vaultdb_consensus::api::{ClusterStatus, JoinReply, MemberReply, ProposeError};
use vaultdb_kv::{AdminError, ReadError};

use crate::messages::{
    impl_common_handlers, ChangeMembership, GetStatus, Join, Propose, ReadIndex, TransferLeader,
};
use crate::port::{Node, Outcomes};
use crate::sentinel::Sentinel;
use crate::slot::unbound_mailbox;

pub(crate) struct RaftNodeActor {
    node: Arc<dyn Node>,
    _sentinel: Sentinel,
}

impl RaftNodeActor {
    pub fn new(node: Arc<dyn Node>, sentinel: Sentinel) -> Self {
        Self { node, _sentinel: sentinel }
    }
}

impl Actor for RaftNodeActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        unbound_mailbox(ctx);
    }
}

impl_common_handlers!(RaftNodeActor);

impl Handler<Propose> for RaftNodeActor {
    type Result = Response<Outcomes>;

    fn handle(&mut self, msg: Propose, _: &mut Context<Self>) -> Self::Result {
        // Expired while queued: never proposed, so the sender may answer definitely.
        if Instant::now() >= msg.deadline {
            return Response::reply(vec![Err(ProposeError::NotLeader); msg.batch.len()]);
        }
        msg.handed.mark();
        // A local task of its own: a slow quorum never stalls the mailbox.
        Response::fut(self.node.propose(msg.batch, msg.since, msg.deadline))
    }
}

impl Handler<ReadIndex> for RaftNodeActor {
    type Result = Response<Result<(), ReadError>>;

    fn handle(&mut self, msg: ReadIndex, _: &mut Context<Self>) -> Self::Result {
        Response::fut(self.node.freshen(msg.freshness, msg.deadline))
    }
}

impl Handler<Join> for RaftNodeActor {
    type Result = Response<Result<JoinReply, AdminError>>;

    fn handle(&mut self, msg: Join, _: &mut Context<Self>) -> Self::Result {
        if Instant::now() >= msg.deadline {
            return Response::reply(Err(AdminError::NoLeader));
        }
        Response::fut(self.node.join(msg.request, msg.deadline))
    }
}

impl Handler<TransferLeader> for RaftNodeActor {
    type Result = Response<Result<String, AdminError>>;

    fn handle(&mut self, msg: TransferLeader, _: &mut Context<Self>) -> Self::Result {
        if Instant::now() >= msg.deadline {
            return Response::reply(Err(AdminError::NoLeader));
        }
        Response::fut(self.node.transfer_leader(msg.to, msg.deadline))
    }
}

impl Handler<ChangeMembership> for RaftNodeActor {
    type Result = Response<Result<MemberReply, AdminError>>;

    fn handle(&mut self, msg: ChangeMembership, _: &mut Context<Self>) -> Self::Result {
        if Instant::now() >= msg.deadline {
            return Response::reply(Err(AdminError::NoLeader));
        }
        Response::fut(self.node.change_member(msg.order, msg.deadline))
    }
}

impl Handler<GetStatus> for RaftNodeActor {
    type Result = MessageResult<GetStatus>;

    fn handle(&mut self, _: GetStatus, _: &mut Context<Self>) -> Self::Result {
        let status: ClusterStatus = self.node.status();
        MessageResult(status)
    }
}
