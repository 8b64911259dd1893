//! The HTTP edge of a node: routes, limits, problem+json, probes and metrics.
//!
//! Owns what a request looks like and what its answer says. Turns every request into calls of
//! [`Backend`], which the actors answer. Must never know openraft or RocksDB, never hold a request past
//! its timeout, and never tell a client more than the node behind it knows.

mod admin;
mod admission;
mod app;
pub mod backend;
mod backup;
mod body;
mod cluster;
mod connection;
mod cursor;
mod dashboard;
mod data;
mod events;
mod exposition;
mod faults;
mod gather;
mod guards;
mod handles;
mod history;
mod items;
mod json;
mod key_path;
mod list_params;
mod listing;
mod member_faults;
mod metrics;
pub mod model;
mod observation;
mod openapi;
mod params;
mod probes;
mod problem;
mod process;
mod reply;
mod route;
mod status;
mod writes;

use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Protocol};
use actix_server::GracefulShutdownSignal;
use actix_service::{map_config, IntoServiceFactory, ServiceFactory, ServiceFactoryExt};
use actix_web::dev::{fn_service, AppConfig, Server, ServiceRequest};
use actix_web::rt::net::TcpStream;
use actix_web::App;
use rustix::net::sockopt::set_tcp_user_timeout;
use vaultdb_kv::limits::REQUEST_TIMEOUT_MS_DEFAULT;
use vaultdb_kv::{Consistency, Limits};

pub use backend::Backend;
pub use cluster::WATCHERS_MAX;

use crate::admission::Admission;
use crate::app::{Shared, Worker};
use crate::cluster::Hub;
use crate::connection::Connection;
use crate::history::{sample_figures, unix_ms, History};
use crate::metrics::Metrics;

/// What the edge is told once, at start.
#[derive(Debug, Clone)]
pub struct WebOptions {
    /// Shown in `Vault-Node`; checked with [`vaultdb_kv::member::check_node_name`] by whoever read it.
    pub node_name: String,
    pub limits: Limits,
    /// Level of reads that ask for none.
    pub read_consistency: Consistency,
    /// Timeout of requests that ask for none.
    pub request_timeout: Duration,
    /// Requests in flight over all workers, past which more are refused with 429.
    pub requests_in_flight_max: usize,
    /// Bytes of request bodies in memory over all workers, past which more are refused with 429.
    pub body_bytes_in_flight_max: usize,
    /// How long an idle connection is kept.
    pub keep_alive: Duration,
    /// How long a client may take to send the head of its first request.
    pub request_head_timeout: Duration,
    /// How long a connection may take to close, unread bodies included.
    pub disconnect_timeout: Duration,
    /// How long a client may leave what it is sent untaken before its connection is given up.
    pub untaken_timeout: Duration,
    /// Time between two signs of life on a stream of events on which nothing happens.
    pub event_heartbeat: Duration,
    /// How long a graceful stop waits for requests in flight. Whole seconds.
    pub shutdown_timeout: Duration,
}

impl WebOptions {
    pub fn new(node_name: impl Into<String>) -> Self {
        Self {
            node_name: node_name.into(),
            limits: Limits::default(),
            read_consistency: Consistency::default(),
            request_timeout: Duration::from_millis(REQUEST_TIMEOUT_MS_DEFAULT),
            requests_in_flight_max: 4_096,
            body_bytes_in_flight_max: 256 * 1024 * 1024,
            keep_alive: Duration::from_secs(75),
            request_head_timeout: Duration::from_secs(10),
            disconnect_timeout: Duration::from_secs(2),
            untaken_timeout: Duration::from_secs(60),
            event_heartbeat: Duration::from_secs(3),
            shutdown_timeout: Duration::from_secs(4),
        }
    }
}

/// Serves on `listener` until the returned server is stopped through its handle.
///
/// `make_backend` runs once on each worker's own thread, inside its arbiter. Signals are left to the
/// caller, and the server must be awaited in a running actix system.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve<B, F>(
    listener: TcpListener,
    workers: usize,
    options: WebOptions,
    make_backend: F,
) -> std::io::Result<Server>
where
    B: Backend,
    F: Fn() -> B + Send + Clone + 'static,
{
    let admission = Admission::new(options.requests_in_flight_max, options.body_bytes_in_flight_max);
    let shutdown_timeout = options.shutdown_timeout;
    let builder =
        Server::build().workers(workers).disable_signals().shutdown_timeout(shutdown_timeout.as_secs());
    let stopping = builder.graceful_shutdown_signal();
    let shared = Arc::new(Shared {
        options,
        admission: Arc::new(admission),
        metrics: Metrics::default(),
        history: History::default(),
        hub: Hub::default(),
        started_ms: unix_ms(),
        stopping: stopping.clone(),
    });
    actix_web::rt::spawn(sample_figures(Arc::downgrade(&shared)));
    let server = builder.listen("vaultdb-http", listener, move || {
        let worker = Rc::new(Worker::new(make_backend(), Arc::clone(&shared)));
        connections(worker, stopping.clone())
    })?;
    Ok(server.run())
}

/// What serves the connections of one worker: actix-web, over a stream that completes its bare errors.
///
/// `HttpServer` does the same wiring and lets nothing in between.
fn connections<B: Backend>(
    worker: Rc<Worker<B>>,
    stopping: GracefulShutdownSignal,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()> {
    let WebOptions { keep_alive, request_head_timeout, disconnect_timeout, untaken_timeout, .. } =
        worker.shared.options;
    let untaken_ms = u32::try_from(untaken_timeout.as_millis()).unwrap_or(u32::MAX);
    let routes = Rc::clone(&worker);
    // Everything is the default service: routes are told apart by the raw path, see `route`.
    let app = App::new().default_service(fn_service(move |request: ServiceRequest| {
        let worker = Rc::clone(&routes);
        async move { Ok(worker.serve(request).await) }
    }));
    let app = app.into_factory().map_err(|error: actix_web::Error| error.error_response());
    let http = HttpService::build()
        .graceful_shutdown_signal(move || {
            let stopping = stopping.clone();
            async move { stopping.notified().await }
        })
        .keep_alive(KeepAlive::from(keep_alive))
        .client_request_timeout(request_head_timeout)
        .client_disconnect_timeout(disconnect_timeout)
        // A client that has sent its request and closed its own half still gets the answer; one that
        // is gone costs at most its timeout.
        .h1_allow_half_closed(true)
        .on_connect_ext(|connection: &Connection<Worker<B>>, data| {
            data.insert(connection.client_tail());
        })
        .finish(map_config(app, |()| AppConfig::default()));
    actix_service::fn_service(move |stream: TcpStream| {
        // Small answers must not wait for the acknowledgement of earlier ones; a client that takes nothing
        // any more must not keep its place. A socket that refuses an option still works.
        let _ = stream.set_nodelay(true);
        let _ = set_tcp_user_timeout(&stream, untaken_ms);
        let peer = stream.peer_addr().ok();
        let connection = Connection::new(stream, Rc::clone(&worker));
        async move { Ok((connection, Protocol::Http1, peer)) }
    })
    .and_then(http)
}
