#!/usr/bin/env bash
# Measures reads at each level, on the leader and on a follower, beside etcd and beside a bare actix-web server, and
# prints Markdown; see --help and docs/performance.md.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

target="${CARGO_TARGET_DIR:-target}"

say() { printf 'bench-reads: %s\n' "$*" >&2; }

scripts/install-deps.sh --compare >&2
say "building"
cargo build --release --locked --quiet --bin vaultdb
cargo build --release --locked --quiet -p vaultdb-bench --example hello
. scripts/bench-etcd.sh

# Python ends what it started, also when it is interrupted.
exec python3 -B scripts/bench/reads.py --vaultdb "$target/release/vaultdb" --hello "$target/release/examples/hello" \
    --etcd "$etcd" --etcd-load "$etcd_load" --data "$target/bench-reads" "$@"
