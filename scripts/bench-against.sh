#!/usr/bin/env bash
# What the changes since a commit cost or save: builds it beside this tree and loads both in turn. The commit comes first,
# then flags such as --rounds 3; see --help.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

[ $# -gt 0 ] && [ "${1#-}" = "$1" ] || { echo "usage: make bench-against ARGS=\"COMMIT [--rounds N] [--seconds S]\"" >&2; exit 2; }
commit="$(git rev-parse --verify "$1^{commit}")"
shift
target="$(realpath -m "${CARGO_TARGET_DIR:-target}")"

scripts/install-deps.sh --bench >&2
cargo build --release --locked --quiet --bin vaultdb
mkdir -p "$target/bench-against"
# What is built goes into a directory of its own, so that the next comparison with another commit compiles little.
rm -rf "$target/bench-against/tree"
mkdir "$target/bench-against/tree"
git archive "$commit" | tar -x -C "$target/bench-against/tree"
(cd "$target/bench-against/tree" && CARGO_TARGET_DIR="$target/bench-against/target" cargo build --release --locked --quiet --bin vaultdb)
exec python3 -B scripts/bench/builds.py --binary "$target/release/vaultdb" \
    --other "$target/bench-against/target/release/vaultdb" --data "$target/bench-against/data" "$@"
