#!/usr/bin/env bash
# Every check and test that this machine can run; the last lines say what was
# skipped and why.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

SKIPPED=()
step() { printf '\n== %s\n' "$*"; }

step "formatting"
if cargo fmt --version >/dev/null 2>&1; then
    cargo fmt --all --check
else
    SKIPPED+=("formatting (rustfmt is not installed)")
fi

step "lints"
if cargo clippy --version >/dev/null 2>&1; then
    cargo clippy --workspace --all-targets --locked -- -D warnings
else
    SKIPPED+=("lints (clippy is not installed)")
fi

step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked

step "tests"
cargo test --workspace --locked

step "the demo's own logic"
PYTHONPATH=scripts/bench:scripts/demo python3 -B -m unittest discover -s scripts/demo/tests

step "the demo, as processes"
# The tests' own binary, which is slow: linking a release build for this would take minutes.
VAULTDB_BINARY="${CARGO_TARGET_DIR:-target}/debug/vaultdb" scripts/demo.sh --fast --processes --rate 50

step "containers"
log="$(mktemp "${TMPDIR:-/tmp}/vaultdb-test.XXXXXX")"
trap 'rm -f "$log"' EXIT
scripts/compose-test.sh | tee "$log"
reason="$(sed -n 's/^compose-test: skipped: //p' "$log")"
if [ -n "$reason" ]; then SKIPPED+=("containers ($reason)"); fi

echo
if [ "${#SKIPPED[@]}" -gt 0 ]; then
    list="$(printf '; %s' "${SKIPPED[@]}")"
    echo "all passed; skipped: ${list:2}"
else
    echo "all passed; nothing was skipped"
fi
