//! `/v1/faults`: what is to go wrong, with fault injection on. Without it there is no such route.

use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use serde::{Deserialize, Serialize};
use vaultdb_kv::faults::FAULT_DURATION_MAX;
use vaultdb_kv::member::check_node_name;
use vaultdb_kv::units::parse_duration;

use crate::app::{by_deadline, no_such_route, Call, Worker};
use crate::backend::Backend;
use crate::json::parse;
use crate::model::{ActiveFault, DataFile, Fault, FaultKind, FaultOrder, FaultRefusal};
use crate::params::refuse;
use crate::problem::{Code, Problem};
use crate::reply::Reply;

/// How long a fault lasts whose order does not say.
const DURATION_DEFAULT: Duration = Duration::from_secs(10);
/// Longest name of a component that is looked for, in bytes.
const COMPONENT_BYTES_MAX: usize = 64;

/// Every kind, with the fields that go with it and whether each must be there.
const KINDS: [(&str, &[(&str, bool)]); 9] = [
    ("actor_panic", &[("component", true)]),
    ("actor_hang", &[("component", true), ("duration", false)]),
    ("fsync_delay", &[("delay", true), ("duration", false)]),
    ("fsync_fail", &[("duration", false)]),
    ("peer_drop", &[("peer", false), ("duration", false)]),
    ("peer_delay", &[("peer", false), ("delay", true), ("duration", false)]),
    ("disk_full", &[("duration", false)]),
    ("flip_bits", &[("file", true)]),
    ("state_flip", &[]),
];

/// Body of `POST /v1/faults`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultBody {
    kind: String,
    #[serde(default)]
    component: Option<String>,
    #[serde(default)]
    peer: Option<String>,
    #[serde(default)]
    delay: Option<String>,
    #[serde(default)]
    duration: Option<String>,
    #[serde(default)]
    file: Option<String>,
}

/// A fault as it is shown.
#[derive(Debug, Default, Serialize)]
struct FaultView {
    /// `null` for what cannot be cleared.
    id: Option<u64>,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delay: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<&'static str>,
    remaining_ms: u64,
}

#[derive(Serialize)]
struct FaultsView {
    faults: Vec<FaultView>,
}

#[derive(Serialize)]
struct Cleared {
    cleared: usize,
}

impl<B: Backend> Worker<B> {
    /// `POST /v1/faults`.
    pub(crate) async fn inject_fault(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        self.check_faults_allowed(&call)?;
        let permit = self.shared.admission.admit()?;
        let (body, deadline) = self.admin_body(&call, payload, &permit).await?;
        let order = order(parse(&body)?)?;
        let mut view = FaultView::of_order(&order);
        let silent = || Problem::new(Code::Internal, "no answer within the request's timeout");
        let answer = by_deadline(deadline, self.backend.inject_fault(order)).await.ok_or_else(silent)?;
        if let Some(active) = answer? {
            view = FaultView::of_active(&active);
        }
        Ok(Reply::json_of(&view))
    }

    /// `GET /v1/faults`.
    pub(crate) fn list_faults(&self, call: Call<'_>) -> Result<Reply, Problem> {
        self.check_faults_allowed(&call)?;
        let faults = self.backend.active_faults();
        Ok(Reply::json_of(&FaultsView { faults: faults.iter().map(FaultView::of_active).collect() }))
    }

    /// `DELETE /v1/faults`, of all of them.
    pub(crate) async fn clear_faults(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        self.clear(call, payload, None).await
    }

    /// `DELETE /v1/faults/{id}`.
    pub(crate) async fn clear_fault(&self, call: Call<'_>, payload: Payload) -> Result<Reply, Problem> {
        self.check_faults_allowed(&call)?;
        let digits = call.raw_key.bytes().all(|byte| byte.is_ascii_digit());
        let id = digits.then(|| call.raw_key.parse().ok()).flatten();
        let id = id.ok_or_else(|| refuse("id", "must be the number of a fault"))?;
        self.clear(call, payload, Some(id)).await
    }

    /// A body says nothing here; what comes is read so that the connection can go on.
    async fn clear(&self, call: Call<'_>, payload: Payload, id: Option<u64>) -> Result<Reply, Problem> {
        self.check_faults_allowed(&call)?;
        let permit = self.shared.admission.admit()?;
        self.admin_body(&call, payload, &permit).await?;
        Ok(Reply::json_of(&Cleared { cleared: self.backend.clear_faults(id) }))
    }

    /// Whatever the method: a node without fault injection does not have the route.
    pub(crate) fn check_faults_allowed(&self, call: &Call<'_>) -> Result<(), Problem> {
        match self.backend.may_inject_faults() {
            true => Ok(()),
            false => Err(no_such_route(call.http)),
        }
    }
}

impl FaultView {
    fn of_active(fault: &ActiveFault) -> Self {
        let left = fault.until.saturating_duration_since(Instant::now());
        Self { id: Some(fault.id), remaining_ms: millis(left), ..Self::of_kind(&fault.kind) }
    }

    fn of_kind(kind: &FaultKind) -> Self {
        let view = Self { kind: kind.name(), ..Self::default() };
        match kind {
            FaultKind::FsyncDelay { delay } => Self { delay: Some(text_of(*delay)), ..view },
            FaultKind::PeerDrop { peer } => Self { peer: peer.clone(), ..view },
            FaultKind::PeerDelay { peer, delay } => {
                Self { peer: peer.clone(), delay: Some(text_of(*delay)), ..view }
            }
            FaultKind::FsyncFail | FaultKind::DiskFull => view,
        }
    }

    fn of_order(order: &FaultOrder) -> Self {
        match order {
            FaultOrder::Timed { kind, duration } => {
                Self { remaining_ms: millis(*duration), ..Self::of_kind(kind) }
            }
            FaultOrder::Actor { component, fault } => {
                let (kind, remaining_ms) = match fault {
                    Fault::Panic => ("actor_panic", 0),
                    Fault::Hang(time) => ("actor_hang", millis(*time)),
                };
                Self { kind, component: Some(component.clone()), remaining_ms, ..Self::default() }
            }
            FaultOrder::FlipBits(file) => {
                Self { kind: "flip_bits", file: Some(file.name()), ..Self::default() }
            }
            FaultOrder::FlipState => Self { kind: "state_flip", ..Self::default() },
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// As it may be given again.
fn text_of(time: Duration) -> String {
    match time.subsec_nanos() % 1_000_000 {
        0 => format!("{}ms", time.as_millis()),
        _ => format!("{}us", time.as_micros()),
    }
}

/// What the body asks for.
///
/// # Errors
/// 400 `invalid_parameter` that names the field.
fn order(body: FaultBody) -> Result<FaultOrder, Problem> {
    check_fields(&body)?;
    let FaultBody { kind, component, peer, delay, duration, file } = body;
    if let Some(peer) = &peer {
        check_node_name(peer).map_err(|bad| refuse("peer", bad.to_string()))?;
    }
    if component.as_ref().is_some_and(|name| name.len() > COMPONENT_BYTES_MAX) {
        return Err(refuse("component", format!("has more than {COMPONENT_BYTES_MAX} bytes")));
    }
    let delay = delay.map(|text| time("delay", &text)).transpose()?.unwrap_or_default();
    let duration = duration.map(|text| time("duration", &text)).transpose()?.unwrap_or(DURATION_DEFAULT);
    let component = component.unwrap_or_default();
    let timed = |kind| Ok(FaultOrder::Timed { kind, duration });
    match &kind[..] {
        "actor_panic" => Ok(FaultOrder::Actor { component, fault: Fault::Panic }),
        "actor_hang" => Ok(FaultOrder::Actor { component, fault: Fault::Hang(duration) }),
        "fsync_delay" => timed(FaultKind::FsyncDelay { delay }),
        "fsync_fail" => timed(FaultKind::FsyncFail),
        "peer_drop" => timed(FaultKind::PeerDrop { peer }),
        "peer_delay" => timed(FaultKind::PeerDelay { peer, delay }),
        "disk_full" => timed(FaultKind::DiskFull),
        "flip_bits" => data_file(&file.unwrap_or_default()).map(FaultOrder::FlipBits),
        "state_flip" => Ok(FaultOrder::FlipState),
        other => Err(no_such_kind(other)),
    }
}

/// Each field that is given belongs to the kind, and each that the kind needs is given.
fn check_fields(body: &FaultBody) -> Result<(), Problem> {
    let known = KINDS.iter().find(|(kind, _)| *kind == body.kind);
    let (kind, fields) = known.ok_or_else(|| no_such_kind(&body.kind))?;
    for (name, value) in [
        ("component", &body.component),
        ("peer", &body.peer),
        ("delay", &body.delay),
        ("duration", &body.duration),
        ("file", &body.file),
    ] {
        let needed = fields.iter().find(|(field, _)| *field == name).map(|(_, needed)| *needed);
        match (needed, value) {
            (None, Some(_)) => return Err(refuse(name, format!("does not go with {kind}"))),
            (Some(true), None) => return Err(refuse(name, format!("must be given with {kind}"))),
            (None | Some(false), None) | (Some(_), Some(_)) => {}
        }
    }
    Ok(())
}

fn no_such_kind(kind: &str) -> Problem {
    let kinds: Vec<_> = KINDS.iter().map(|(kind, _)| *kind).collect();
    refuse("kind", format!("\"{}\" is not one of {}", kind.escape_debug(), kinds.join(", ")))
}

fn time(name: &'static str, text: &str) -> Result<Duration, Problem> {
    let time = parse_duration(text).map_err(|reason| refuse(name, reason))?;
    if time.is_zero() || time > FAULT_DURATION_MAX {
        return Err(refuse(name, format!("must be from 1us to {}m", FAULT_DURATION_MAX.as_secs() / 60)));
    }
    Ok(time)
}

fn data_file(text: &str) -> Result<DataFile, Problem> {
    let found = DataFile::ALL.into_iter().find(|file| file.name() == text);
    found.ok_or_else(|| {
        let names = DataFile::ALL.map(DataFile::name).join(", ");
        refuse("file", format!("\"{}\" is not one of {names}", text.escape_debug()))
    })
}

impl From<FaultRefusal> for Problem {
    fn from(refusal: FaultRefusal) -> Self {
        let detail = refusal.to_string();
        match refusal {
            FaultRefusal::Off => Problem::new(Code::NoSuchRoute, detail),
            FaultRefusal::NoSuchComponent { .. } => refuse("component", detail),
            FaultRefusal::NoSuchPeer { .. } => refuse("peer", detail),
            FaultRefusal::TooMany { faults_max } => {
                Problem::new(Code::Conflict, detail).with_limit(faults_max as u64)
            }
            FaultRefusal::Impossible { .. } => Problem::new(Code::Conflict, detail),
            FaultRefusal::Unavailable => Problem::new(Code::Starting, detail),
            FaultRefusal::Failed { .. } => Problem::new(Code::Internal, detail),
        }
    }
}
