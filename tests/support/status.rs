//! `GET /status` as its readers see it.

use serde_json::Value;

/// One node's view of its cluster.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

/// One row of `cluster.members`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub name: String,
    pub id: u64,
    pub haddr: String,
    pub raddr: String,
    pub voter: bool,
    pub reachable: bool,
}

impl Status {
    fn at(&self, path: &str) -> &Value {
        self.0.pointer(path).unwrap_or_else(|| panic!("status has no {path}: {}", self.0))
    }

    fn text(&self, path: &str) -> String {
        self.at(path).as_str().unwrap_or_else(|| panic!("{path} is no text: {}", self.0)).to_owned()
    }

    pub fn number(&self, path: &str) -> u64 {
        self.at(path).as_u64().unwrap_or_else(|| panic!("{path} is no number: {}", self.0))
    }

    pub fn name(&self) -> String {
        self.text("/node/name")
    }

    /// `None` before the node has been given one.
    pub fn id(&self) -> Option<u64> {
        self.0.pointer("/node/id").and_then(Value::as_u64).filter(|id| *id > 0)
    }

    pub fn state(&self) -> String {
        self.text("/node/state")
    }

    pub fn cluster_id(&self) -> Option<String> {
        self.0.pointer("/cluster/id").and_then(Value::as_str).filter(|id| !id.is_empty()).map(str::to_owned)
    }

    pub fn leader(&self) -> Option<String> {
        self.0.pointer("/cluster/leader").and_then(Value::as_str).filter(|n| !n.is_empty()).map(str::to_owned)
    }

    pub fn term(&self) -> u64 {
        self.0.pointer("/cluster/term").and_then(Value::as_u64).unwrap_or(0)
    }

    pub fn revision(&self) -> u64 {
        self.number("/store/revision")
    }

    pub fn members(&self) -> Vec<Member> {
        let rows = self.0.pointer("/cluster/members").and_then(Value::as_array).cloned().unwrap_or_default();
        rows.iter()
            .map(|row| Member {
                name: row["name"].as_str().unwrap_or_default().to_owned(),
                id: row["id"].as_u64().unwrap_or(0),
                haddr: row["haddr"].as_str().unwrap_or_default().to_owned(),
                raddr: row["raddr"].as_str().unwrap_or_default().to_owned(),
                voter: row["role"] == "voter",
                reachable: row["reachable"] == true,
            })
            .collect()
    }

    pub fn member(&self, name: &str) -> Option<Member> {
        self.members().into_iter().find(|member| member.name == name)
    }

    /// The order that the terms of the design promise.
    pub fn check_order(&self) {
        let [last, committed, applied, snapshot, purged] =
            ["last_log", "committed", "applied", "snapshot", "purged"]
                .map(|name| self.number(&format!("/raft/{name}")));
        assert!(
            last >= committed && committed >= applied && applied >= snapshot && snapshot >= purged,
            "last_log >= committed >= applied >= snapshot >= purged is broken: {}",
            self.at("/raft")
        );
    }
}
