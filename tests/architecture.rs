//! The folders are the architecture: between the crates of the workspace there is no arrow that the
//! design does not name.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{json, Value};

/// Whom each room may depend on.
///
/// The binary also names the vocabulary, whose rules its flags obey. Consensus and storage it reaches
/// only through the actors.
const ROOMS: &[(&str, &[&str])] = &[
    ("vaultdb", &["vaultdb-web", "vaultdb-actors", "vaultdb-config", "vaultdb-bench", "vaultdb-kv"]),
    ("vaultdb-web", &["vaultdb-actors", "vaultdb-kv"]),
    ("vaultdb-actors", &["vaultdb-consensus", "vaultdb-storage", "vaultdb-kv"]),
    ("vaultdb-consensus", &["vaultdb-storage", "vaultdb-kv"]),
    ("vaultdb-storage", &["vaultdb-kv"]),
    ("vaultdb-config", &["vaultdb-kv"]),
    ("vaultdb-kv", &[]),
    ("vaultdb-bench", &["vaultdb-kv"]),
];

/// Libraries that only some rooms may know.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("openraft", &["vaultdb-consensus"]),
    ("rocksdb", &["vaultdb-storage"]),
    // The oracle of the log's tests: nothing that is built in.
    ("raft-log", &[]),
    ("actix", &["vaultdb-actors"]),
    ("actix-rt", &["vaultdb", "vaultdb-actors", "vaultdb-web"]),
    // The binary runs the system in which the server and the actors live.
    ("actix-web", &["vaultdb", "vaultdb-web"]),
];

/// Every arrow of `metadata` that is not allowed, one sentence each.
fn forbidden(metadata: &Value) -> Vec<String> {
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let packages = metadata["packages"].as_array().expect("packages");
    let mut found = Vec::new();
    for package in packages {
        let name = package["name"].as_str().expect("a name");
        let Some(allowed) = rooms.get(name) else {
            found.push(format!("{name} is no room of the design"));
            continue;
        };
        // Tests may reach further; what is built into the binary may not.
        let built_in = package["dependencies"].as_array().expect("dependencies").iter();
        for dependency in built_in.filter(|dependency| dependency["kind"] != "dev") {
            let target = dependency["name"].as_str().expect("a name");
            if rooms.contains_key(target) && !allowed.contains(&target) {
                found.push(format!("{name} -> {target}"));
            }
            let library = LIBRARIES.iter().find(|(library, _)| *library == target);
            if library.is_some_and(|(_, users)| !users.contains(&name)) {
                found.push(format!("{name} -> {target}"));
            }
        }
    }
    found
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// No crate depends on what its room must not know.
#[test]
fn dependencies_point_one_way() {
    assert_eq!(forbidden(&metadata()), Vec::<String>::new());
}

/// Every room of the table exists, so that a renamed crate does not escape the rule.
#[test]
fn every_room_exists() {
    let metadata = metadata();
    let names: Vec<&str> =
        metadata["packages"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    for (room, _) in ROOMS {
        assert!(names.contains(room), "{room} is missing from the workspace: {names:?}");
    }
}

/// The checker sees each kind of bad arrow, and lets tests reach further.
#[test]
fn checker_rejects_bad_arrows() {
    let package = |name: &str, dependency: &str, kind: Value| {
        json!({ "packages": [
            { "name": name, "dependencies": [{ "name": dependency, "kind": kind }] },
        ] })
    };
    for (from, to) in [
        ("vaultdb-web", "vaultdb-consensus"),
        ("vaultdb-web", "vaultdb-storage"),
        ("vaultdb-kv", "vaultdb-storage"),
        ("vaultdb-storage", "vaultdb-consensus"),
        ("vaultdb-consensus", "vaultdb-actors"),
        ("vaultdb", "vaultdb-storage"),
        ("vaultdb", "vaultdb-consensus"),
        ("vaultdb-bench", "vaultdb-config"),
        ("vaultdb-bench", "vaultdb-web"),
        ("vaultdb-web", "openraft"),
        ("vaultdb-consensus", "actix-rt"),
        ("vaultdb-consensus", "rocksdb"),
    ] {
        assert_eq!(forbidden(&package(from, to, Value::Null)), [format!("{from} -> {to}")]);
        assert_eq!(forbidden(&package(from, to, json!("build"))).len(), 1);
        assert_eq!(forbidden(&package(from, to, json!("dev"))), Vec::<String>::new());
    }
    assert_eq!(forbidden(&package("vaultdb-new", "serde", Value::Null)).len(), 1);
    assert_eq!(forbidden(&package("vaultdb-web", "vaultdb-actors", Value::Null)).len(), 0);
    assert_eq!(forbidden(&package("vaultdb-bench", "vaultdb-kv", Value::Null)).len(), 0);
}
