#!/usr/bin/env bash
# Compares VaultDB with etcd on this machine and prints Markdown; see --help and
# docs/performance.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

target="${CARGO_TARGET_DIR:-target}"

say() { printf 'bench-compare: %s\n' "$*" >&2; }

scripts/install-deps.sh --compare >&2
say "building"
cargo build --release --locked --quiet --bin vaultdb
. scripts/bench-etcd.sh

# Python ends the nodes that it started, also when it is interrupted.
exec python3 -B scripts/bench/compare.py --vaultdb "$target/release/vaultdb" --etcd "$etcd" \
    --etcd-load "$etcd_load" --data "$target/bench-compare/data" "$@"
