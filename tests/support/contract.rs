//! What every answer owes its reader, and a run of named checks against one cluster.

use std::panic::{catch_unwind, AssertUnwindSafe};

use super::{Cluster, Request, Response};

/// One request that must fail in one way.
pub struct Refused {
    pub what: &'static str,
    pub request: Request,
    pub status: u16,
    pub code: &'static str,
    /// `applied` of a write; `None` on a read, where it must be absent.
    pub applied: Option<&'static str>,
    pub limit: Option<u64>,
}

impl Refused {
    pub fn read(what: &'static str, request: Request, status: u16, code: &'static str) -> Self {
        Self { what, request, status, code, applied: None, limit: None }
    }

    /// A write that was certainly not applied.
    pub fn write(what: &'static str, request: Request, status: u16, code: &'static str) -> Self {
        Self { what, request, status, code, applied: Some("no"), limit: None }
    }

    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Panics unless the answer is this refusal, whole.
    pub fn check(&self, response: &Response) {
        let shown = format!("{}: {} {}", self.what, response.status, response.text());
        assert_eq!((response.status, response.code().as_str()), (self.status, self.code), "{shown}");
        check_problem(response, &shown);
        let json = response.json();
        assert_eq!(json["applied"].as_str(), self.applied, "{shown}");
        if self.limit.is_some() {
            assert_eq!(json["limit"].as_u64(), self.limit, "{shown}");
        }
    }
}

/// RFC 9457: the members that every problem has, with the right types.
pub fn check_problem(response: &Response, shown: &str) {
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{shown}");
    let json = response.json();
    for name in ["type", "title", "detail", "code"] {
        assert!(json[name].as_str().is_some_and(|text| !text.is_empty()), "{name} of {shown}");
    }
    assert_eq!(json["status"].as_u64(), Some(u64::from(response.status)), "{shown}");
}

/// The headers of every answer, from node `i` of a cluster that has a leader.
pub fn check_headers(cluster: &Cluster, i: usize, response: &Response, shown: &str) {
    let shown = format!("{shown}: {:?}", response.headers);
    assert_eq!(response.header("vault-node"), Some(cluster.nodes[i].name.as_str()), "{shown}");
    assert!(response.header("vault-leader").is_some_and(|leader| leader.starts_with("node")), "{shown}");
    for name in ["vault-term", "vault-revision"] {
        assert!(response.header(name).is_some_and(|value| value.parse::<u64>().is_ok()), "{name}: {shown}");
    }
}

/// A name and what it checks.
pub type Check<T> = (&'static str, fn(&mut T));

/// Runs each check; reports all that fail, not only the first.
pub fn run<T>(subject: &mut T, checks: &[Check<T>]) {
    let mut failed = Vec::new();
    for (name, check) in checks {
        println!("-- {name}");
        // A check that panics leaves the cluster as it is; the next ones tell whether it still serves.
        if catch_unwind(AssertUnwindSafe(|| check(subject))).is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "{} of {} checks failed: {failed:?}", failed.len(), checks.len());
}
