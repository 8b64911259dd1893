//! Messages between nodes on the Raft port.
//!
//! A frame is a length (u32, big endian), a request id (u64, little endian) and an encoded message. The
//! first frame of a connection is [`Hello`]; a node refuses one that is not meant for it.

use std::io;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};
use vaultdb_kv::{AdminError, NodeId};
use vaultdb_storage::{Checkpoint, LogId, SnapshotMeta, Vote};

use crate::api::{
    Claim, Committed, JoinReply, JoinRequest, MemberOrder, MemberReply, ProposeError, Standing,
};
use crate::codec::{self, LogPayload};
use crate::formation::{FormAnswer, FormCall};
use crate::types::SharedCommand;

/// Largest frame, in bytes. The largest message is an append of one write of the largest size.
pub const FRAME_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Version of the protocol; both ends must speak the same.
pub const PROTOCOL_VERSION: u32 = 4;
/// Bytes of a snapshot in one frame.
pub const SNAPSHOT_CHUNK_BYTES: usize = 512 * 1024;

/// Frames are gathered up to about this many bytes for one write.
pub const WRITE_BYTES: usize = 256 * 1024;
/// How long a write may block: the other end does not read.
const WRITE_MS_MAX: u64 = 5_000;

const LENGTH_BYTES: usize = 4;
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

/// Offers a snapshot; answered with [`Response::SnapshotResume`].
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
    ReadIndex(Proof),
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
    /// As `Join`, of a node that is to stay a learner.
    JoinLearner {
        request: JoinRequest,
        deadline_ms: u64,
    },
    ChangeMember {
        order: MemberOrder,
        deadline_ms: u64,
    },
    /// Where the caller, and whoever it heard of, is reached.
    Announce(Vec<Claim>),
    /// Whether the cluster still counts the caller among its members.
    GetStanding,
    /// From a node without a cluster, in place of a hello.
    Form(FormCall),
    /// What the state of the caller is, as far as a hash tells; answered with that of the node asked.
    ExchangeCheckpoints(Vec<Checkpoint>),
}

/// How a leader makes sure that it still leads before it names a read index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Proof {
    /// A quorum confirms it.
    Quorum,
    /// A quorum confirmed it less than [`crate::Timing::read_lease`] ago.
    Lease,
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
    /// A snapshot may come. Bytes of each of its files that are here already and need not be sent.
    SnapshotResume(Vec<u64>),
    ChangeMember(Result<MemberReply, AdminError>),
    /// Where the node asked, and whoever it heard of, is reached.
    Announce(Vec<Claim>),
    Standing(Standing),
    /// The hello named another cluster than this one.
    OtherCluster {
        cluster_id: String,
    },
    Form(FormAnswer),
    Checkpoints(Vec<Checkpoint>),
}

pub type Reader = FramedRead<Box<dyn AsyncRead + Send + Unpin>, LengthDelimitedCodec>;
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

pub fn frame_codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES_MAX).new_codec()
}

/// Appends a frame to `out`, which many share on their way to one write.
///
/// # Errors
/// `InvalidInput` when the message is larger than [`FRAME_BYTES_MAX`]; `out` is as before.
pub fn push_frame<T: Serialize>(out: &mut Vec<u8>, id: u64, message: &T) -> io::Result<()> {
    let start = out.len();
    out.put_u32(0);
    out.put_u64_le(id);
    codec::encode_into(message, out);
    let body_start = start + LENGTH_BYTES;
    let bytes = out.len() - body_start;
    match u32::try_from(bytes) {
        Ok(length) if bytes <= FRAME_BYTES_MAX => {
            out[start..body_start].copy_from_slice(&length.to_be_bytes());
            Ok(())
        }
        Ok(_) | Err(_) => {
            out.truncate(start);
            let reason = format!("a message of {bytes} bytes is larger than {FRAME_BYTES_MAX}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
        }
    }
}

/// Writes one frame by itself.
///
/// # Errors
/// As [`push_frame`], and what the connection fails with.
pub async fn send<T: Serialize>(writer: &mut Writer, id: u64, message: &T) -> io::Result<()> {
    let mut out = Vec::new();
    push_frame(&mut out, id, message)?;
    write_out(writer, &mut out).await
}

/// Writes the frames in `out` and empties it; its memory is kept for the next ones.
///
/// # Errors
/// `TimedOut` when the other end does not read for [`WRITE_MS_MAX`], and what the connection fails with.
pub async fn write_out(writer: &mut Writer, out: &mut Vec<u8>) -> io::Result<()> {
    let written = timeout(Duration::from_millis(WRITE_MS_MAX), writer.write_all(out)).await;
    written.map_err(|_| io::ErrorKind::TimedOut)??;
    out.clear();
    out.shrink_to(WRITE_BYTES * 2);
    Ok(())
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
        let mut out = b"before".to_vec();
        push_frame(&mut out, 77, &message).expect("small");
        let (length, bytes) = out[b"before".len()..].split_at(LENGTH_BYTES);
        assert_eq!(length, u32::try_from(bytes.len()).expect("small").to_be_bytes());
        let parsed: (u64, Request) = parse(BytesMut::from(bytes)).expect("parse");
        assert_eq!(parsed, (77, message));
        for cut in 0..bytes.len() {
            assert!(parse::<Request>(BytesMut::from(&bytes[..cut])).is_err());
        }
    }
}
