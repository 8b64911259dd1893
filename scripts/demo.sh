#!/usr/bin/env bash
# Five nodes on this machine: writes, reads everywhere, the loss of two nodes,
# their return. Cleans up after itself. VAULTDB_BINARY names another binary.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh

BINARY="${VAULTDB_BINARY:-${CARGO_TARGET_DIR:-target}/release/vaultdb}"
# A node takes VAULTDB_* for its settings and refuses those that it does not know.
unset VAULTDB_BINARY
HTTP_PORT="${HTTP_PORT:-11000}"
RAFT_PORT="${RAFT_PORT:-12000}"
WAIT_SECONDS=30

[ -x "$BINARY" ] || { echo "demo: $BINARY is missing: run make build" >&2; exit 1; }

PORTS=()
PIDS=()
for i in 0 1 2 3 4; do
    PORTS+=("$((HTTP_PORT + i))")
    for port in "$((HTTP_PORT + i))" "$((RAFT_PORT + i))"; do
        port_is_free "$port" || { echo "demo: port $port is in use; HTTP_PORT and RAFT_PORT choose others" >&2; exit 1; }
    done
done

work="$(mktemp -d "${TMPDIR:-/tmp}/vaultdb-demo.XXXXXX")"
cleanup() {
    local code=$? pid
    for pid in "${PIDS[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    if [ "$code" -ne 0 ]; then
        for log in "$work"/*.log; do echo "--- the end of $log"; tail -n 15 "$log"; done >&2
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

title() { printf '\n== %s\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# Shows a command, runs it, and ends its output with a line break.
show() {
    local word line=""
    for word in "$@"; do
        case "$word" in *[\ \?\"]*) line+=" '$word'" ;; *) line+=" $word" ;; esac
    done
    printf '$%s\n' "$line"
    "$@"
    echo
}

# start INDEX [FLAGS...]: the seed's command line.
start() {
    local i="$1"
    shift
    local args=(-id "node$i" -haddr "localhost:${PORTS[i]}" -raddr "localhost:$((RAFT_PORT + i))" "$@" "$work/node$i")
    printf '$ vaultdb %s &\n' "${args[*]}"
    "$BINARY" "${args[@]}" </dev/null >>"$work/node$i.log" 2>&1 &
    PIDS[i]=$!
}

stop_hard() {
    printf '$ kill -9 (node%s)\n' "$1"
    kill -9 "${PIDS[$1]}"
    wait "${PIDS[$1]}" 2>/dev/null || true
}

title "five nodes"
start 0
for i in 1 2 3 4; do start "$i" -join ":${PORTS[0]}"; done
wait_until "$WAIT_SECONDS" all_see_voters 5 || die "the five nodes did not form a cluster within $WAIT_SECONDS s"
echo "five voters, the leader is $(leader_seen_by "${PORTS[0]}")"

title "a write to one, a read from each"
show curl -sS -XPOST "localhost:${PORTS[0]}/key" -d '{"user1": "batman"}'
for port in "${PORTS[@]}"; do show curl -sS -XGET "localhost:$port/key/user1"; done
for port in "${PORTS[@]}"; do
    reads "$port" user1 batman || die "the node at port $port does not answer the value"
done

title "two of five die, the leader among them"
leader="$(leader_seen_by "${PORTS[0]}")"
first="${leader#node}"
[ -n "$first" ] || die "no leader"
second=$(((first + 1) % 5))
survivor=$(((first + 2) % 5))
stop_hard "$first"
stop_hard "$second"
show curl -sS -XPOST "localhost:${PORTS[survivor]}/key" -d '{"user2": "robin"}'
show curl -sS -XGET "localhost:${PORTS[survivor]}/key/user1"
show curl -sS -XGET "localhost:${PORTS[survivor]}/key/user2"
reads "${PORTS[survivor]}" user1 batman || die "an acknowledged write is gone"
reads "${PORTS[survivor]}" user2 robin || die "the write was not taken"

title "they come back, without -join, and catch up"
start "$first"
start "$second"
for i in "$first" "$second"; do
    wait_until "$WAIT_SECONDS" reads_stale "${PORTS[i]}" user2 robin || die "node$i did not catch up"
    show curl -sS -XGET "localhost:${PORTS[i]}/key/user2?consistency=stale"
done

title "done: nothing was lost"
