//! Messages between nodes on the Raft port.
//!
//! A frame is a length (u32, big endian), a request id (u64, little endian) and an encoded message. The
//! first frame of a connection is [`Hello`]; a node refuses one that is not meant for it.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};
use vaultdb_kv::{AdminError, NodeId};
use vaultdb_storage::{LogId, SnapshotMeta, Vote};

use crate::api::{Committed, JoinReply, JoinRequest, ProposeError};
use crate::codec::{self, LogPayload};
use crate::types::SharedCommand;

/// Largest frame, in bytes. The largest message is an append of one write of the largest size.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Version of the protocol; both ends must speak the same.
pub const PROTOCOL_VERSION: u32 = 1;
/// Bytes of a snapshot in one frame.
pub const SNAPSHOT_CHUNK_BYTES: usize = 512 * 1024;

const ID_BYTES: usize = 8;

/// Who calls whom, in which cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub protocol_version: u32,
    pub cluster_id: String,
    pub from: NodeId,
    pub to: NodeId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Append {
    pub vote: Vote,
    pub prev: Option<LogId>,
    pub entries: Vec<(LogId, LogPayload)>,
    pub leader_commit: Option<LogId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AppendAnswer {
    Success,
    Partial(Option<LogId>),
    Conflict,
    HigherVote(Vote),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteCall {
    pub vote: Vote,
    pub last: Option<LogId>,
    pub leadership_transfer: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoteAnswer {
    pub vote: Vote,
    pub granted: bool,
    pub last: Option<LogId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotBegin {
    pub vote: Vote,
    pub meta: SnapshotMeta,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotChunk {
    pub file: u32,
    pub offset: u64,
    pub data: Bytes,
    pub crc32: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Hello(Hello),
    Ping,
    Append(Append),
    Vote(VoteCall),
    PreVote(VoteCall),
    TransferLeader {
        from: Vote,
        to: NodeId,
        last: Option<LogId>,
    },
    ReadIndex,
    Propose {
        commands: Vec<SharedCommand>,
        deadline_ms: u64,
    },
    Join {
        request: JoinRequest,
        deadline_ms: u64,
    },
    MoveLeader {
        to: Option<String>,
        deadline_ms: u64,
    },
    SnapshotBegin(SnapshotBegin),
    SnapshotChunk(SnapshotChunk),
    SnapshotEnd,
    /// As `Propose`, but each is answered once it is durable in the log of the node asked.
    Accept {
        commands: Vec<SharedCommand>,
        deadline_ms: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// The hello is accepted, a chunk is stored, a ping is heard, leadership may move.
    Done,
    Append(AppendAnswer),
    Vote(VoteAnswer),
    /// Index up to which the state must be applied before the read.
    ReadIndex(u64),
    Propose(Vec<Result<Committed, ProposeError>>),
    Join(Result<JoinReply, AdminError>),
    MoveLeader(Result<String, AdminError>),
    /// The receiver's vote after a snapshot.
    Snapshot(Vote),
    /// Not done, with the reason in words. The request had no effect that its sender relies on.
    Refused(String),
    Accept(Vec<Result<LogId, ProposeError>>),
}

pub type Reader = FramedRead<Box<dyn AsyncRead + Send + Unpin>, LengthDelimitedCodec>;
pub type Writer = FramedWrite<Box<dyn AsyncWrite + Send + Unpin>, LengthDelimitedCodec>;

pub fn frame_codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES_MAX).new_codec()
}

pub fn frame<T: Serialize>(id: u64, message: &T) -> Bytes {
    let mut body = Vec::with_capacity(128);
    body.put_u64_le(id);
    codec::encode_into(message, &mut body);
    body.into()
}

/// # Errors
/// `InvalidData` when the frame is too short or not an encoding of `T`.
pub fn parse<T: DeserializeOwned>(mut frame: BytesMut) -> io::Result<(u64, T)> {
    if frame.len() < ID_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame without a request id"));
    }
    let id = frame.get_u64_le();
    Ok((id, codec::decode(&frame)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame survives its way, and a damaged one is an error, never a panic.
    #[test]
    fn frames_survive_and_damage_is_refused() {
        let message = Request::Append(Append {
            vote: Vote { term: 3, node_id: 1, committed: true },
            prev: Some(LogId { term: 2, index: 9 }),
            entries: vec![(LogId { term: 3, index: 10 }, LogPayload::Blank)],
            leader_commit: None,
        });
        let bytes = frame(77, &message);
        let parsed: (u64, Request) = parse(BytesMut::from(&bytes[..])).expect("parse");
        assert_eq!(parsed, (77, message));
        for cut in 0..bytes.len() {
            assert!(parse::<Request>(BytesMut::from(&bytes[..cut])).is_err());
        }
    }
}
