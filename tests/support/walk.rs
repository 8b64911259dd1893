//! Printed commands made true: lines of a document run against nodes on other ports.

use std::process::{Command, Output};

use super::Cluster;

/// First HTTP and first Raft port of the printed commands; node i has the i-th after it.
const PRINTED_HTTP: u16 = 11_000;
const PRINTED_RAFT: u16 = 12_000;

/// Replaces the ports that a document prints by those of the cluster's nodes.
pub fn rewrite_ports(line: &str, cluster: &Cluster) -> String {
    let mut line = line.to_owned();
    for (i, node) in cluster.nodes.iter().enumerate() {
        let i = u16::try_from(i).expect("few nodes");
        line = line.replace(&format!(":{}", PRINTED_HTTP + i), &format!(":{}", node.http));
        line = line.replace(&format!(":{}", PRINTED_RAFT + i), &format!(":{}", node.raft));
    }
    line
}

/// One command of a walk and what the document says that it prints.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    pub command: String,
    /// The `# => …` lines behind it; none means that any output is right.
    pub expected: Vec<String>,
}

/// The commands of every ```bash block that follows a `<!-- walk -->` line.
pub fn steps(document: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let (mut marked, mut inside) = (false, false);
    for line in document.lines().map(str::trim) {
        if inside {
            if line == "```" {
                inside = false;
            } else if let Some(expected) = line.strip_prefix("# =>") {
                let step = steps.last_mut().expect("a command stands before what it prints");
                step.expected.push(expected.trim().to_owned());
            } else if !line.is_empty() && !line.starts_with('#') {
                steps.push(Step { command: line.to_owned(), expected: Vec::new() });
            }
        } else if line == "<!-- walk -->" {
            marked = true;
        } else if line == "```bash" {
            inside = marked;
            marked = false;
        } else if !line.is_empty() {
            marked = false;
        }
    }
    steps
}

/// Whether `line` is what `pattern` says; `…` in the pattern stands for anything.
pub fn fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split('…');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// Runs a line as a shell would.
pub fn shell(line: &str) -> Output {
    Command::new("bash").args(["-c", line]).output().expect("bash runs")
}

/// Whether a program can be started at all.
pub fn has(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}
