#!/usr/bin/env bash
# Durable writes a second on five local nodes: starts them on loopback, loads the
# leader with `vaultdb bench put` and cleans up. Flags go to vaultdb bench, such
# as --duration 5s; NODES sets the size of the cluster.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

target="${CARGO_TARGET_DIR:-target}"
scripts/install-deps.sh --bench >&2
cargo build --release --locked --quiet --bin vaultdb
exec python3 -B scripts/bench/writes.py "$target/release/vaultdb" "$target/bench-writes" "${NODES:-5}" "$@"
