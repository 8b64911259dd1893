#!/usr/bin/env bash
# Every check and test that this machine can run, also those behind one that
# fails; the last lines say what failed, and what was skipped and why.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

SKIPPED=()
FAILED=()

# A step's name and its command.
step() {
    printf '\n== %s\n' "$1"
    "${@:2}" || FAILED+=("$1")
}

containers() {
    local log reason status=0
    log="$(mktemp "${TMPDIR:-/tmp}/vaultdb-test.XXXXXX")"
    scripts/compose-test.sh | tee "$log" || status=$?
    reason="$(sed -n 's/^compose-test: skipped: //p' "$log")"
    rm -f "$log"
    if [ -n "$reason" ]; then SKIPPED+=("containers ($reason)"); fi
    return "$status"
}

if cargo fmt --version >/dev/null 2>&1; then
    step "formatting" cargo fmt --all --check
else
    SKIPPED+=("formatting (rustfmt is not installed)")
fi
if cargo clippy --version >/dev/null 2>&1; then
    step "lints" cargo clippy --workspace --all-targets --locked -- -D warnings
else
    SKIPPED+=("lints (clippy is not installed)")
fi
step "documentation" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked
step "tests" cargo test --workspace --locked --no-fail-fast
step "the demo's own logic" \
    env PYTHONPATH=scripts/bench:scripts/demo python3 -B -m unittest discover -s scripts/demo/tests
# The tests' own binary, which is slow: linking a release build for this would take minutes.
step "the demo, as processes" \
    env VAULTDB_BINARY="${CARGO_TARGET_DIR:-target}/debug/vaultdb" scripts/demo.sh --fast --processes --rate 50
step "containers" containers

list() { printf '; %s' "$@"; }
skipped="nothing was skipped"
if [ "${#SKIPPED[@]}" -gt 0 ]; then
    skipped="skipped: $(list "${SKIPPED[@]}" | cut -c 3-)"
fi
echo
if [ "${#FAILED[@]}" -gt 0 ]; then
    echo "failed: $(list "${FAILED[@]}" | cut -c 3-); $skipped"
    exit 1
fi
echo "all passed; $skipped"
