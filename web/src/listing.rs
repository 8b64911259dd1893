//! `GET /v1/kv`: the keys of a range, in pages of one revision or as one stream.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use actix_web::http::header::{HeaderMap, ACCEPT};
use actix_web::http::Version;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use vaultdb_kv::limits::LIST_BYTES_MAX;
use vaultdb_kv::{Key, ListQuery, Page, PageRequest};

use crate::app::{by_deadline, Call, Worker};
use crate::backend::Backend;
use crate::cursor::Cursor;
use crate::data::silent;
use crate::items;
use crate::list_params::{expired, ListParams};
use crate::model::{Listing, ListingId, ScanFrom, STREAMED_LISTINGS_MAX};
use crate::params::{refuse, Params};
use crate::problem::{Code, Problem};
use crate::reply::{Content, Media, Reply};

const NDJSON: &str = "application/x-ndjson";
/// Most bytes of keys and values that a stream takes from the store at once, and holds.
pub(crate) const STREAM_PAGE_BYTES: usize = 256 * 1024;
/// Most items of such a piece: empty values cost more than they count.
pub(crate) const STREAM_PAGE_ITEMS: usize = 4_096;

/// A read of the listing's route that is admitted.
struct Asked {
    params: Params,
    list: ListParams,
    deadline: Instant,
}

impl<B: Backend> Worker<B> {
    pub(crate) async fn list(self: &Rc<Self>, call: Call<'_>, head_only: bool) -> Result<Reply, Problem> {
        let _permit = self.shared.admission.admit()?;
        let params = call.params()?;
        let list = ListParams::parse(call.http.uri().query())?;
        let deadline = call.deadline(&params, self.shared.options.request_timeout);
        let asked = Asked { params, list, deadline };
        let is_stream = wants_stream(call.http.headers(), NDJSON);
        if is_stream && asked.list.has_cursor() {
            return Err(refuse("cursor", "goes with pages only: a stream has no other pages"));
        }
        if !is_stream {
            return self.list_page(asked, head_only).await;
        }
        needs_chunks(&call)?;
        self.list_all(asked, head_only).await
    }

    async fn list_page(&self, asked: Asked, head_only: bool) -> Result<Reply, Problem> {
        let Asked { params, list, deadline } = asked;
        let items_max = list.page_items_max()?;
        let items_max = if head_only { 1 } else { items_max };
        let (from, after, query, id) = match list.cursor()? {
            None => {
                let freshness = params.freshness(self.shared.options.read_consistency)?;
                (ScanFrom::Now(freshness), None, list.query(), None)
            }
            Some(Cursor { listing: id, after }) => {
                let listing = self.backend.listings().resume(id, Instant::now()).ok_or_else(expired)?;
                list.check_unchanged(listing.query())?;
                check_freshness(&params, &listing)?;
                let query = listing.query().clone();
                (ScanFrom::Listing(listing), Some(after), query, Some(id))
            }
        };
        let encode = items::element;
        let request = PageRequest { query, after, items_max, bytes_max: LIST_BYTES_MAX, encode };
        let (listing, page) = self.scan(from, request, deadline).await?;
        if head_only {
            return Ok(reply_of(&listing, Media::Json, Content::Untold));
        }
        let next = page.next.clone().map(|after| {
            let keep = || self.backend.listings().keep(listing.clone(), Instant::now());
            Cursor { listing: id.unwrap_or_else(keep), after }.encode()
        });
        if let (Some(id), None) = (id, &next) {
            self.backend.listings().finish(id, Instant::now());
        }
        let body = items::close(page, next.as_deref(), listing.revision());
        Ok(reply_of(&listing, Media::Json, Content::Bytes(body.into())))
    }

    /// The whole range as one stream. The first piece is read before the answer begins, so that what goes
    /// wrong by then is told as an error.
    async fn list_all(self: &Rc<Self>, asked: Asked, head_only: bool) -> Result<Reply, Problem> {
        let Asked { params, list, deadline } = asked;
        let freshness = params.freshness(self.shared.options.read_consistency)?;
        let left = if head_only { Some(1) } else { list.stream_items_max() };
        let request = piece(list.query(), None, left);
        let (listing, first) = self.scan(ScanFrom::Now(freshness), request, deadline).await?;
        if head_only {
            return Ok(reply_of(&listing, Media::Ndjson, Content::Untold));
        }
        let lease = self.lease_stream(&listing)?;
        let timeout = params.timeout.unwrap_or(self.shared.options.request_timeout);
        let flow = Flow { lease, timeout, left };
        Ok(reply_of(&listing, Media::Ndjson, flow.into_content(first)))
    }

    /// Takes one of the node's places for streams.
    pub(crate) fn lease_stream(self: &Rc<Self>, listing: &Listing) -> Result<StreamLease<B>, Problem> {
        let id = self.backend.listings().stream(listing.clone(), Instant::now()).ok_or_else(|| {
            let detail = format!("{STREAMED_LISTINGS_MAX} listings are streamed by this node already");
            Problem::new(Code::Overloaded, detail)
                .with_limit(STREAMED_LISTINGS_MAX as u64)
                .of_read(listing.consistency())
        })?;
        Ok(StreamLease { worker: Rc::clone(self), id })
    }

    pub(crate) async fn scan(
        &self,
        from: ScanFrom,
        request: PageRequest,
        deadline: Instant,
    ) -> Result<(Listing, Page), Problem> {
        let consistency = match &from {
            ScanFrom::Now(freshness) => freshness.consistency,
            ScanFrom::Listing(listing) => listing.consistency(),
        };
        let answer = by_deadline(deadline, self.backend.scan(from, request, deadline)).await;
        let answer = answer.unwrap_or_else(|| Err(silent(consistency)));
        answer.map_err(|error| Problem::from(error).of_read(consistency))
    }
}

/// A stream under way. Between two pieces it holds the name of its listing alone, so that the view of the
/// store ends with the lease when the client takes nothing.
struct Flow<B: Backend> {
    lease: StreamLease<B>,
    /// How long each piece may take.
    timeout: Duration,
    left: Option<usize>,
}

/// Given back when the answer is done or its client is gone.
pub(crate) struct StreamLease<B: Backend> {
    worker: Rc<Worker<B>>,
    id: ListingId,
}

impl<B: Backend> StreamLease<B> {
    /// The next piece. An error aborts the connection, so that no client takes what it has for the whole.
    pub(crate) async fn read(
        &self,
        request: impl FnOnce(&Listing) -> PageRequest,
        timeout: Duration,
    ) -> io::Result<Page> {
        let Self { worker, id } = self;
        let now = Instant::now();
        let listing = worker.backend.listings().resume(*id, now);
        let listing = listing.ok_or_else(|| io::Error::other("its client took nothing for too long"))?;
        let request = request(&listing);
        let scanned = worker.scan(ScanFrom::Listing(listing), request, now + timeout).await;
        scanned.map(|(_, page)| page).map_err(|problem| io::Error::other(problem.detail.into_owned()))
    }
}

impl<B: Backend> Drop for StreamLease<B> {
    fn drop(&mut self) {
        self.worker.backend.listings().forget(self.id);
    }
}

impl<B: Backend> Flow<B> {
    fn into_content(self, first: Page) -> Content {
        let rest = stream::try_unfold((self, Step::Give(first)), |(mut flow, step)| async move {
            let page = match step {
                Step::Give(page) => page,
                Step::Read(request) => flow.read(request).await.inspect_err(|error| {
                    log::warn!("a listing is cut off: {error}");
                })?,
                Step::End => return Ok::<_, io::Error>(None),
            };
            let step = flow.after(&page);
            Ok(Some((Bytes::from(page.body), (flow, step))))
        });
        Content::Stream(rest.boxed_local())
    }

    fn after(&mut self, page: &Page) -> Step {
        self.left = self.left.map(|left| left.saturating_sub(page.items));
        match &page.next {
            Some(last) if self.left != Some(0) => Step::Read(last.clone()),
            Some(_) | None => Step::End,
        }
    }

    async fn read(&self, after: Key) -> io::Result<Page> {
        let request = |listing: &Listing| piece(listing.query().clone(), Some(after), self.left);
        self.lease.read(request, self.timeout).await
    }
}

enum Step {
    Give(Page),
    /// What follows this key.
    Read(Key),
    End,
}

fn piece(query: ListQuery, after: Option<Key>, left: Option<usize>) -> PageRequest {
    let items_max = left.unwrap_or(usize::MAX).min(STREAM_PAGE_ITEMS);
    PageRequest { query, after, items_max, bytes_max: STREAM_PAGE_BYTES, encode: items::line }
}

fn reply_of(listing: &Listing, media: Media, content: Content) -> Reply {
    let mut reply = Reply::with(media, content).at(listing.revision());
    reply.consistency = Some(listing.consistency());
    reply
}

/// The level of a listing is that of its first page. A later one that asks for something else would get less
/// than it asked for.
fn check_freshness(params: &Params, listing: &Listing) -> Result<(), Problem> {
    let level = listing.consistency();
    if params.consistency.is_some_and(|asked| asked != level) {
        return Err(refuse("consistency", format!("differs from that of the listing, which is {level}")));
    }
    params.freshness(level)?;
    match params.min_revision {
        Some(least) if least > listing.revision() => {
            Err(refuse("min_revision", format!("is past the listing, which is at {}", listing.revision())))
        }
        Some(_) | None => Ok(()),
    }
}

/// Refuses a client that could not tell a stream's end from a lost connection.
pub(crate) fn needs_chunks(call: &Call<'_>) -> Result<(), Problem> {
    if call.http.version() < Version::HTTP_11 {
        let detail = "a stream needs HTTP/1.1: only there its end can be told from a lost connection";
        return Err(Problem::new(Code::MalformedRequest, detail));
    }
    Ok(())
}

/// Whether the client accepts this kind of stream. Asked for beside others it is what it gets.
pub(crate) fn wants_stream(headers: &HeaderMap, kind: &str) -> bool {
    let ranges = headers.get_all(ACCEPT).filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    ranges.into_iter().any(|range| {
        let media = range.split(';').next().unwrap_or_default();
        media.trim().eq_ignore_ascii_case(kind)
    })
}
