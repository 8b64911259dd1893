#!/usr/bin/env bash
# Where each microsecond of a write goes on five local nodes: processor time by
# thread on leader and followers, the wait in each stage, and what larger values
# cost. Prints Markdown. The only argument is the length of each run in seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

target="${CARGO_TARGET_DIR:-target}"
scripts/install-deps.sh --bench >&2
cargo build --release --locked --quiet --bin vaultdb
exec python3 -B scripts/bench/profile.py "$target/release/vaultdb" "$target/bench-profile" "${1:-6}"
