//! One web worker: takes a request to its route and stamps, counts and times the answer.
//!
//! Knows every route's name and none of its work. Whatever happens, a request is answered by its
//! timeout, with the common headers, and errors as problem+json.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use actix_server::GracefulShutdownSignal;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::HttpRequest;
use futures::{poll, FutureExt};
use tokio::time::timeout_at;

use crate::admission::Admission;
use crate::backend::Backend;
use crate::cluster::Hub;
use crate::connection::{may_end_a_head, BareError, ClientTail, Refuse};
use crate::dashboard;
use crate::history::History;
use crate::key_path::echo;
use crate::metrics::{Metrics, Shard};
use crate::openapi;
use crate::params::Params;
use crate::problem::{Code, Effect, Problem};
use crate::reply::{Content, Media, Reply, Stamp};
use crate::route::{Route, Verb};
use crate::WebOptions;

/// How long after its deadline a request may still be answered by the node behind it, which knows more
/// of what became of it. Past this the edge answers alone.
const DEADLINE_GRACE: Duration = Duration::from_millis(50);

/// What all web workers share.
pub(crate) struct Shared {
    pub(crate) options: WebOptions,
    pub(crate) admission: Arc<Admission>,
    pub(crate) metrics: Metrics,
    pub(crate) history: History,
    pub(crate) hub: Hub,
    /// Unix time in milliseconds at which the edge came up: tells one life of a node from the next.
    pub(crate) started_ms: u64,
    /// Tells when the server begins to stop.
    pub(crate) stopping: GracefulShutdownSignal,
}

/// What one web worker owns.
pub(crate) struct Worker<B> {
    pub(crate) backend: B,
    pub(crate) shared: Arc<Shared>,
    counters: Arc<Shard>,
    stamp: Stamp,
}

/// One request as the routes see it.
pub(crate) struct Call<'a> {
    pub(crate) http: &'a HttpRequest,
    /// The part of the raw path that the route leaves open.
    pub(crate) raw_key: &'a str,
    pub(crate) started: Instant,
}

impl Call<'_> {
    pub(crate) fn params(&self) -> Result<Params, Problem> {
        Params::parse(self.http.uri().query())
    }

    pub(crate) fn deadline(&self, params: &Params, default: Duration) -> Instant {
        self.started + params.timeout.unwrap_or(default)
    }
}

impl<B: Backend> Worker<B> {
    pub(crate) fn new(backend: B, shared: Arc<Shared>) -> Self {
        let counters = shared.metrics.add_shard();
        let stamp = Stamp::new(&shared.options.node_name);
        Self { backend, shared, counters, stamp }
    }

    pub(crate) async fn serve(self: Rc<Self>, request: ServiceRequest) -> ServiceResponse {
        let started = Instant::now();
        let (http, payload) = request.into_parts();
        let (route, raw_key) = Route::find(http.uri().path());
        let verb = Verb::of(http.method());
        let call = Call { http: &http, raw_key, started };
        // A bug in one request must not end as silence for its client. Nothing that outlives the
        // request is left half changed by it: the permit is given back, the counters are atomics.
        let answer = AssertUnwindSafe(self.answer(route, verb, call, payload)).catch_unwind().await;
        let answer = answer.unwrap_or_else(|_| Err(panicked(verb)));
        if let Err(problem) = &answer {
            if problem.code == Code::Internal {
                log::error!("{} {}: {}", verb.as_str(), route.pattern(), problem.detail);
            }
        }
        let may_end_a_head = |reply: &Reply| match &reply.content {
            Content::Bytes(body) => may_end_a_head(body),
            // Lines escape what they hold; other streams hold values as they are.
            Content::Stream(_) => reply.media == Media::Raw,
            Content::Untold => false,
        };
        if answer.as_ref().is_ok_and(may_end_a_head) {
            http.conn_data::<ClientTail>().inspect(|tail| tail.mark());
        }
        let response = self.stamp.respond(answer, self.backend.leadership(), || self.backend.revision());
        self.counters.record(route, verb, response.status(), started.elapsed());
        ServiceResponse::new(http, response)
    }

    /// The answer to a request that actix-web refused before any route saw it, whole, in place of the
    /// bare one. Certainly not applied: it was never read to its end.
    fn refuse_unread(&self, bare: &BareError<'_>) -> Vec<u8> {
        let (code, detail) = match bare.status {
            StatusCode::REQUEST_TIMEOUT => {
                (Code::RequestTimeout, "the head of the request did not arrive in time")
            }
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                (Code::HeadTooLarge, "the head of the request has more than 128 KiB")
            }
            status if status.is_client_error() => (
                Code::MalformedRequest,
                "the request is not valid HTTP/1.1, or its target has more than 65,534 bytes or bytes \
                 that must be percent-encoded",
            ),
            _ => (Code::Internal, "the connection met a bug in this node"),
        };
        let problem = Problem::new(code, detail).of_write();
        self.counters.record(Route::Unknown, Verb::Other, code.status(), Duration::ZERO);
        let (lines, body) = self.stamp.plain(&problem, self.backend.leadership(), self.backend.revision());
        bare.replace(&lines, &body)
    }

    async fn answer(
        self: &Rc<Self>,
        route: Route,
        verb: Verb,
        call: Call<'_>,
        payload: Payload,
    ) -> Result<Reply, Problem> {
        match (route, verb) {
            (Route::Kv, Verb::Get | Verb::Head) => self.get_raw(call).await,
            (Route::Key, Verb::Get | Verb::Head) => self.get_json(call).await,
            (Route::List, Verb::Get | Verb::Head) => self.list(call, verb == Verb::Head).await,
            (Route::Snapshot, Verb::Get | Verb::Head) => self.snapshot(call, verb == Verb::Head).await,
            (Route::Writes, Verb::Get | Verb::Head) => self.write_state(call).await,
            (Route::Kv, Verb::Put) => self.put_raw(call, payload).await.map_err(Problem::of_write),
            (Route::Keys, Verb::Post) => self.set_pairs(call, payload).await.map_err(Problem::of_write),
            (Route::Kv, Verb::Delete) => self.delete(call, false).await.map_err(Problem::of_write),
            (Route::Key, Verb::Delete) => self.delete(call, true).await.map_err(Problem::of_write),
            (Route::Join, Verb::Post) => self.join(call, payload).await.map_err(Problem::of_write),
            (Route::Leader, Verb::Post) => {
                self.transfer_leader(call, payload).await.map_err(Problem::of_write)
            }
            (Route::Member, Verb::Delete) => {
                self.remove_member(call, payload).await.map_err(Problem::of_write)
            }
            (Route::Promote, Verb::Post) => {
                self.promote_member(call, payload).await.map_err(Problem::of_write)
            }
            (Route::MemberFaults, Verb::Post | Verb::Delete) => {
                self.member_faults(call, payload, verb).await.map_err(Problem::of_write)
            }
            (Route::MemberFaults, Verb::Get | Verb::Head) => self.member_faults(call, payload, verb).await,
            (Route::Observation, Verb::Get | Verb::Head) => self.observation(call).await,
            (Route::Cluster, Verb::Get | Verb::Head) => self.cluster(call, verb == Verb::Head).await,
            (Route::Members, Verb::Get | Verb::Head) => self.members(call).await,
            (Route::Status, Verb::Get | Verb::Head) => Ok(self.status().await),
            (Route::Faults, Verb::Get | Verb::Head) => self.list_faults(call),
            (Route::Faults, Verb::Post) => self.inject_fault(call, payload).await,
            (Route::Faults, Verb::Delete) => self.clear_faults(call, payload).await,
            (Route::Fault, Verb::Delete) => self.clear_fault(call, payload).await,
            (Route::Faults | Route::Fault, _) => {
                self.check_faults_allowed(&call)?;
                Err(method_not_allowed(route))
            }
            (Route::Livez, Verb::Get | Verb::Head) => self.livez(call).await,
            (Route::Readyz, Verb::Get | Verb::Head) => self.readyz(call).await,
            (Route::Metrics, Verb::Get | Verb::Head) => Ok(self.metrics().await),
            (Route::Events, Verb::Get | Verb::Head) => self.events(call, verb == Verb::Head),
            (Route::OpenApi, Verb::Get | Verb::Head) => Ok(openapi::reply()),
            (Route::Home, Verb::Get | Verb::Head) => {
                Ok(Reply::new(Media::Html, dashboard::page(&self.shared.options.node_name)))
            }
            (Route::Unknown, _) => Err(no_such_route(call.http)),
            (
                Route::Keys
                | Route::Key
                | Route::Kv
                | Route::List
                | Route::Snapshot
                | Route::Writes
                | Route::Status
                | Route::Join
                | Route::Members
                | Route::Member
                | Route::Promote
                | Route::MemberFaults
                | Route::Leader
                | Route::Livez
                | Route::Readyz
                | Route::Metrics
                | Route::Events
                | Route::Observation
                | Route::Cluster
                | Route::OpenApi
                | Route::Home,
                _,
            ) => Err(method_not_allowed(route)),
        }
    }
}

impl<B: Backend> Refuse for Worker<B> {
    fn refuse(&self, bare: &BareError<'_>) -> Vec<u8> {
        self.refuse_unread(bare)
    }
}

/// Waits for the node behind the edge, but never past the deadline and its grace.
pub(crate) async fn by_deadline<T>(deadline: Instant, answer: impl Future<Output = T>) -> Option<T> {
    let mut answer = pin!(answer);
    // Most reads are answered at once and need no timer.
    match poll!(&mut answer) {
        Poll::Ready(answer) => Some(answer),
        Poll::Pending => timeout_at((deadline + DEADLINE_GRACE).into(), answer).await.ok(),
    }
}

/// A write may have been handed on before the panic.
fn panicked(verb: Verb) -> Problem {
    let problem = Problem::new(Code::Internal, "the request met a bug in this node");
    match verb {
        Verb::Put | Verb::Post | Verb::Delete => Problem { applied: Some(Effect::Unknown), ..problem },
        Verb::Get | Verb::Head | Verb::Other => problem,
    }
}

pub(crate) fn no_such_route(http: &HttpRequest) -> Problem {
    Problem::new(Code::NoSuchRoute, format!("there is no route {}", echo(http.uri().path().as_bytes())))
}

fn method_not_allowed(route: Route) -> Problem {
    let allow = route.allow();
    let detail = format!("{} answers {allow}", route.pattern());
    Problem { allow: Some(allow), ..Problem::new(Code::MethodNotAllowed, detail) }
}
