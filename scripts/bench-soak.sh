#!/usr/bin/env bash
# Memory of five nodes under ten minutes of load, sampled every ten seconds; see
# --help. Fails when a node went over the goal.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

target="${CARGO_TARGET_DIR:-target}"
scripts/install-deps.sh --bench >&2
cargo build --release --locked --quiet --bin vaultdb
exec python3 -B scripts/bench/soak.py --vaultdb "$target/release/vaultdb" --data "$target/bench-soak" "$@"
