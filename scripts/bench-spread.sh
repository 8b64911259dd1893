#!/usr/bin/env bash
# Reads over five nodes, each with a share of a processor of its own, against synchronous reads through the leader.
# Prints Markdown; see --help and docs/performance.md. Needs control groups that it may write; says so where not.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

target="${CARGO_TARGET_DIR:-target}"
scripts/install-deps.sh --bench >&2
cargo build --release --locked --quiet --bin vaultdb
exec python3 -B scripts/bench/spread.py --vaultdb "$target/release/vaultdb" --data "$target/bench-spread" "$@"
