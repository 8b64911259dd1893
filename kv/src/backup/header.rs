//! The header of a backup: lines of `name: value`, so that `head` shows what a file is.

use crate::Revision;

/// What a backup is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupHeader {
    /// The cluster that it was taken from.
    pub cluster_id: String,
    /// Name of the node that it was taken from.
    pub node: String,
    /// Version of that node.
    pub version: String,
    /// The state that it holds: all writes up to this one, none after it.
    pub revision: Revision,
    /// The last log entry that this state holds.
    pub term: u64,
    pub log_index: u64,
    /// When it was begun by the node's clock, in milliseconds since 1970. Nothing is decided by it.
    pub created_ms: u64,
}

impl BackupHeader {
    /// A line break within a text would begin another line, so none is written.
    pub(super) fn encode(&self) -> Vec<u8> {
        let one_line = |text: &str| text.replace(['\r', '\n'], " ");
        let lines = [
            ("cluster_id", one_line(&self.cluster_id)),
            ("node", one_line(&self.node)),
            ("version", one_line(&self.version)),
            ("revision", self.revision.to_string()),
            ("term", self.term.to_string()),
            ("log_index", self.log_index.to_string()),
            ("created_ms", self.created_ms.to_string()),
        ];
        lines.iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>().into_bytes()
    }

    /// Lines of other names are passed over: a later version may tell more.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|error| format!("the header is no text: {error}"))?;
        let find = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            value.ok_or_else(|| format!("the header has no {name}"))
        };
        let number = |name: &str| {
            let value = find(name)?;
            value.parse().map_err(|_| format!("{name} in the header is \"{}\"", value.escape_debug()))
        };
        Ok(Self {
            cluster_id: find("cluster_id")?.to_owned(),
            node: find("node")?.to_owned(),
            version: find("version")?.to_owned(),
            revision: number("revision")?,
            term: number("term")?,
            log_index: number("log_index")?,
            created_ms: number("created_ms")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is missing or no number is named; what a later version adds is passed over.
    #[test]
    fn headers_are_lines() {
        let header = BackupHeader {
            cluster_id: "c".into(),
            node: "n\nrevision: 8".into(),
            version: "0.1.0".into(),
            revision: 7,
            term: 2,
            log_index: 9,
            created_ms: u64::MAX,
        };
        let mut bytes = header.encode();
        let found = BackupHeader::decode(&bytes).expect("whole");
        assert_eq!(found, BackupHeader { node: "n revision: 8".into(), ..header });
        bytes.extend_from_slice(b"colour: red\n");
        assert_eq!(BackupHeader::decode(&bytes), Ok(found));
        let text = String::from_utf8(bytes).expect("text");
        for (line, told) in [("revision: 7", "no revision"), ("term: 2", "no term"), ("node: ", "no node")] {
            let refused = BackupHeader::decode(text.replace(line, "x: ").as_bytes()).expect_err(line);
            assert!(refused.contains(told), "{refused}");
        }
        let refused = BackupHeader::decode(text.replace("term: 2", "term: -2").as_bytes());
        assert_eq!(refused, Err("term in the header is \"-2\"".into()));
    }
}
