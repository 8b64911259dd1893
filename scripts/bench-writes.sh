#!/usr/bin/env bash
# Durable writes a second on five local nodes: starts them on loopback with data in a temporary
# directory, measures at 1, 64 and 256 connections to the leader, and cleans up. Flags after -- go to
# the load generator.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh
cargo build --release --locked --quiet -p vaultdb -p vaultdb-bench
bin=target/release

dir=$(mktemp -d)
pids=()
cleanup() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$dir"
}
trap cleanup EXIT

http=13000
raft=14000
for i in 0 1 2 3 4; do
    join=()
    [ "$i" = 0 ] || join=(-join "localhost:$http")
    "$bin/vaultdb" -id "node$i" -haddr "localhost:$((http + i))" -raddr "localhost:$((raft + i))" "${join[@]}" \
        "$dir/node$i" >"$dir/node$i.log" 2>&1 &
    pids+=($!)
done

voters() { curl -s -m 2 "localhost:$http/status" | grep -o '"role":"voter"' | wc -l; }
for _ in $(seq 100); do
    [ "$(voters)" = 5 ] && break
    sleep 0.1
done
[ "$(voters)" = 5 ] || { echo "five voters did not form within 10 s" >&2; tail -n 3 "$dir"/*.log >&2; exit 1; }

# node0 leads unless an election moved it: measure where the leader is.
leader=$(curl -s -m 2 "localhost:$http/status" | grep -o '"leader":"node[0-9]"' | grep -o '[0-9]')
echo "$(nproc) processors, $(awk '/MemTotal/ {printf "%.0f GiB", $2 / 1048576}' /proc/meminfo), $(uname -sm); five nodes and the load on one machine; 16-byte keys, 100-byte values; fdatasync on"
"$bin/vaultdb-bench" --endpoints "localhost:$((http + leader))" "$@"
