#!/usr/bin/env bash
# Fuzzes the recovery of the Raft log: scripts/fuzz.sh [seconds], 300 unless told. Ends with 0 if nothing was found;
# what is found is kept in storage/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../storage"
time_max_s="${1:-300}"

if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked
fi
# The coverage counters are instrumentation of the compiler that stable toolchains have and do not offer. No sanitizer:
# the log is safe Rust, and faster without.
export RUSTC_BOOTSTRAP=1
exec nice -n 10 cargo fuzz run --sanitizer none recover -- \
    -max_total_time="$time_max_s" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
