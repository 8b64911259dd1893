//! `GET /v1/snapshot`: all keys of one revision as a stream that tells whether it is whole.

use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix_web::http::header::HeaderValue;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use vaultdb_kv::backup::{encode_record, BackupEncoder, BackupHeader};
use vaultdb_kv::{Key, ListQuery, Page, PageRequest};

use crate::app::{Call, Worker};
use crate::backend::Backend;
use crate::listing::{needs_chunks, StreamLease, STREAM_PAGE_BYTES, STREAM_PAGE_ITEMS};
use crate::model::{Listing, LogId, ScanFrom};
use crate::problem::{Code, Problem};
use crate::reply::{Content, Media, Reply};

impl<B: Backend> Worker<B> {
    pub(crate) async fn snapshot(self: &Rc<Self>, call: Call<'_>, head_only: bool) -> Result<Reply, Problem> {
        let _permit = self.shared.admission.admit()?;
        let params = call.params()?;
        needs_chunks(&call)?;
        let freshness = params.freshness(self.shared.options.read_consistency)?;
        let default_timeout = self.shared.options.request_timeout;
        let deadline = call.deadline(&params, default_timeout);
        let (listing, first) = self.scan(ScanFrom::Now(freshness), piece(None), deadline).await?;
        let header = self.backup_header(&listing).await?;
        let content = if head_only {
            Content::Untold
        } else {
            let lease = self.lease_stream(&listing)?;
            let timeout = params.timeout.unwrap_or(default_timeout);
            Backup { lease, timeout, encoder: BackupEncoder::default() }.into_content(&header, first)
        };
        let mut reply = Reply::with(Media::Raw, content).at(listing.revision());
        reply.consistency = Some(listing.consistency());
        reply.disposition =
            HeaderValue::from_str(&format!("attachment; filename=\"vaultdb-{}.backup\"", listing.revision()))
                .ok();
        Ok(reply)
    }

    async fn backup_header(&self, listing: &Listing) -> Result<BackupHeader, Problem> {
        let status = self.backend.status().await;
        let Some(cluster) = status.cluster else {
            return Err(Problem::new(Code::Starting, "the node belongs to no cluster yet"));
        };
        let LogId { term, index } = listing.log_id().unwrap_or_default();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(BackupHeader {
            cluster_id: cluster.cluster_id,
            node: status.node.name,
            version: status.node.version.to_owned(),
            revision: listing.revision(),
            term,
            log_index: index,
            created_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX),
        })
    }
}

/// A backup under way. As a streamed listing it holds only the name of its view between two pieces.
struct Backup<B: Backend> {
    lease: StreamLease<B>,
    /// How long each piece may take.
    timeout: Duration,
    encoder: BackupEncoder,
}

enum Step {
    Give(Page),
    /// What follows this key.
    Read(Key),
    /// The trailer.
    Close,
}

impl<B: Backend> Backup<B> {
    fn into_content(mut self, header: &BackupHeader, first: Page) -> Content {
        let begin = Bytes::from(self.encoder.begin(header));
        let rest = stream::try_unfold(Some((self, Step::Give(first))), |state| async move {
            let Some((mut backup, step)) = state else { return Ok::<_, io::Error>(None) };
            let page = match step {
                Step::Give(page) => page,
                Step::Read(after) => backup.read(after).await.inspect_err(|error| {
                    log::warn!("a backup is cut off: {error}");
                })?,
                Step::Close => return Ok(Some((Bytes::from(backup.encoder.end()), None))),
            };
            let block = backup.encoder.block(page.items, &page.body);
            let step = page.next.map_or(Step::Close, Step::Read);
            Ok(Some((Bytes::from(block), Some((backup, step)))))
        });
        Content::Stream(stream::once(async { Ok(begin) }).chain(rest).boxed_local())
    }

    async fn read(&self, after: Key) -> io::Result<Page> {
        self.lease.read(|_| piece(Some(after)), self.timeout).await
    }
}

fn piece(after: Option<Key>) -> PageRequest {
    PageRequest {
        query: ListQuery::default(),
        after,
        items_max: STREAM_PAGE_ITEMS,
        bytes_max: STREAM_PAGE_BYTES,
        encode: encode_record,
    }
}
