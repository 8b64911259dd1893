//! Sends a snapshot: what the peer does not have yet, file by file, a few pieces in flight.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{stream, StreamExt, TryStreamExt};
use openraft::errors::NetworkError;
use vaultdb_kv::failpoint;
use vaultdb_storage::{Snapshot, SnapshotMeta, Vote};

use super::throttle::Throttle;
use super::transfers::Transfer;
use super::PIECES_IN_FLIGHT_MAX;
use crate::link::Link;
use crate::network::{network_error, unexpected, within, Rpc};
use crate::wire::{Request, Response, SnapshotBegin, SnapshotChunk, SNAPSHOT_CHUNK_BYTES};

/// How long one step may take. The first has the peer look through what it has, the last one has it open and
/// install all.
pub const STEP_MS_MAX: u64 = 60_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    file: usize,
    offset: u64,
    bytes: usize,
}

/// Sends `snapshot` over a connection of its own; the peer's vote, once the peer has installed it.
///
/// # Errors
/// When the connection breaks or the peer refuses. What has arrived is not sent again next time.
pub async fn send(
    link: &Link,
    leader: Vote,
    snapshot: &Snapshot,
    throttle: &Arc<Throttle>,
    transfer: &Transfer,
) -> Rpc<Vote> {
    let step = Duration::from_millis(STEP_MS_MAX);
    let meta = snapshot.meta();
    let begin = SnapshotBegin { vote: leader, meta: meta.clone() };
    let received = match within(step, link.call(Request::SnapshotBegin(begin))).await? {
        Response::SnapshotResume(received) if received.len() == meta.files.len() => received,
        other => return Err(unexpected(&other)),
    };
    transfer.resume(received.iter().fold(0, |sum, bytes| sum.saturating_add(*bytes)));
    let parts = (link.clone(), snapshot.clone(), throttle.clone());
    let calls = stream::iter(pieces(meta, &received)).then(move |piece| {
        let (link, snapshot, throttle) = parts.clone();
        async move {
            throttle.take(piece.bytes).await;
            let chunk = read(snapshot, piece).await?;
            // Queued here, so that pieces leave in order.
            Ok((piece, link.call(Request::SnapshotChunk(chunk))))
        }
    });
    let answers = calls.map(|call: Rpc<_>| async move {
        let (piece, call) = call?;
        match within(step, call).await? {
            Response::Done => Ok(piece.bytes as u64),
            other => Err(unexpected(&other)),
        }
    });
    let mut answers = std::pin::pin!(answers.buffered(PIECES_IN_FLIGHT_MAX));
    while let Some(bytes) = answers.try_next().await? {
        transfer.advance(bytes);
        failpoint::reach("snapshot-piece-sent");
    }
    match within(step, link.call(Request::SnapshotEnd)).await? {
        Response::Snapshot(vote) => Ok(vote),
        other => Err(unexpected(&other)),
    }
}

/// What is missing, in the order in which it is sent.
fn pieces(meta: &SnapshotMeta, received: &[u64]) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (file, (described, from)) in meta.files.iter().zip(received).enumerate() {
        let mut offset = *from;
        while offset < described.bytes {
            let rest = usize::try_from(described.bytes - offset).unwrap_or(usize::MAX);
            let bytes = rest.min(SNAPSHOT_CHUNK_BYTES);
            pieces.push(Piece { file, offset, bytes });
            offset += bytes as u64;
        }
    }
    pieces
}

async fn read(snapshot: Snapshot, piece: Piece) -> Rpc<SnapshotChunk> {
    let Piece { file, offset, bytes } = piece;
    let read = move || {
        let data = snapshot.read_chunk(file, offset, bytes).map_err(|e| e.to_string())?;
        let crc32 = crc32fast::hash(&data);
        let data = if failpoint::is_on("snapshot-damaged") { damaged(&data) } else { data };
        let file = u32::try_from(file).map_err(|e| e.to_string())?;
        Ok::<_, String>(SnapshotChunk { file, offset, data, crc32 })
    };
    let chunk = tokio::task::spawn_blocking(read).await.map_err(|e| network_error(e.to_string()))?;
    chunk.map_err(|reason| openraft::errors::RPCError::Network(NetworkError::from_string(reason)))
}

/// The same but for one bit: for tests of the receiver.
fn damaged(data: &Bytes) -> Bytes {
    let mut data = data.to_vec();
    if let Some(byte) = data.last_mut() {
        *byte ^= 1;
    }
    data.into()
}

#[cfg(test)]
mod tests {
    use vaultdb_storage::{AppliedState, SnapshotFile};

    use super::*;

    /// Each byte that is missing is sent once, and none that is there.
    #[test]
    fn pieces_cover_what_is_missing() {
        let chunk = SNAPSHOT_CHUNK_BYTES as u64;
        let sizes = [chunk * 2 + 1, 0, chunk, 7];
        let files = sizes.map(|bytes| SnapshotFile { name: format!("{bytes}"), bytes, crc32: 0 });
        let meta = SnapshotMeta { id: "s".into(), applied: AppliedState::default(), files: files.into() };
        let piece = |file, offset, bytes| Piece { file, offset, bytes };
        assert_eq!(
            pieces(&meta, &[3, 0, chunk, 0]),
            [
                piece(0, 3, SNAPSHOT_CHUNK_BYTES),
                piece(0, chunk + 3, SNAPSHOT_CHUNK_BYTES - 2),
                piece(3, 0, 7)
            ]
        );
        assert_eq!(pieces(&meta, &sizes), []);
        // A peer that claims more than there is gets nothing for it.
        assert_eq!(pieces(&meta, &[u64::MAX; 4]), []);
    }
}
