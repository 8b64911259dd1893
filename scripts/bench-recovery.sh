#!/usr/bin/env bash
# Measures how long a cluster takes to form, to restart, to replace a leader and to take a node back, with pre-vote and
# without, beside etcd, and how long an empty node takes to join. Prints Markdown; see --help and docs/performance.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

target="${CARGO_TARGET_DIR:-target}"

say() { printf 'bench-recovery: %s\n' "$*" >&2; }

scripts/install-deps.sh --compare >&2
say "building"
cargo build --release --locked --quiet --bin vaultdb
etcd_driver=no
. scripts/bench-etcd.sh

# Python ends what it started, also when it is interrupted.
exec python3 -B scripts/bench/recovery.py --vaultdb "$target/release/vaultdb" --etcd "$etcd" \
    --data "$target/bench-recovery" "$@"
