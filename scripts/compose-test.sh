#!/usr/bin/env bash
# Tests docker-compose.yml and the Dockerfile's runtime stage on a real engine,
# with the release binary (or VAULTDB_BINARY): five containers form a cluster;
# one is killed, one ends by itself, one loses its network, all are stopped and
# started; every acknowledged write is there at the end, on every node. Then the
# demo, which breaks five other containers by fault injection.
#
# Exits 0 with one line that begins "compose-test: skipped" where it cannot run.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
. scripts/compose-lib.sh

START_SECONDS=90
CATCH_UP_SECONDS=60
WRITES_EACH=20
PROJECT="vaultdb-test-$$"
export COMPOSE_IMAGE="vaultdb:test-$$"

skip() { printf 'compose-test: skipped: %s\n' "$*"; exit 0; }
die() { printf 'compose-test: %s\n' "$*" >&2; exit 1; }

command -v curl >/dev/null 2>&1 || skip "curl is not installed"
reason="$(find_engine)" || skip "$reason"
find_engine

BINARY="${VAULTDB_BINARY:-}"
if [ -z "$BINARY" ]; then
    (. scripts/build-env.sh && cargo build --release --locked --bin vaultdb) || die "the release build failed"
    BINARY="${CARGO_TARGET_DIR:-target}/release/vaultdb"
fi
[ -x "$BINARY" ] || die "$BINARY is missing"

# A binary that was linked on a newer system than the runtime image's cannot start there.
code=0
reason="$(runs_in_base "$BINARY")" || code=$?
case "$code" in 0) ;; 1) skip "$reason" ;; *) die "$reason" ;; esac

# The usual ports, or others where a cluster of the user's runs already.
PORTS=()
for base in 11000 21000 31000 41000; do
    PORTS=()
    for i in 0 1 2 3 4; do
        if port_is_free "$((base + i))"; then PORTS+=("$((base + i))"); fi
    done
    [ "${#PORTS[@]}" -eq 5 ] && break
done
[ "${#PORTS[@]}" -eq 5 ] || die "no five free ports"
for i in 0 1 2 3 4; do export "HTTP_PORT_$i=${PORTS[i]}"; done

COMPOSE_WORK="$(mktemp -d "${TMPDIR:-/tmp}/vaultdb-compose.XXXXXX")"
write_context "$BINARY"

PASSED=0
FAILED=0
pass() { PASSED=$((PASSED + 1)); printf 'ok    %s\n' "$*"; }
fail() { FAILED=$((FAILED + 1)); printf 'FAIL  %s\n' "$*"; }
# check TEXT COMMAND...
check() {
    local text="$1"
    shift
    if "$@"; then pass "$text"; else fail "$text"; fi
}

cleanup() {
    if [ "$FAILED" -gt 0 ] || [ "$PASSED" -eq 0 ]; then compose logs --tail=40 2>&1 | tail -n 200 >&2 || true; fi
    remove_project
    rm -rf "$COMPOSE_WORK"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# The closing line; the exit code is 1 when anything failed.
finish() {
    printf 'compose-test: %s passed, %s failed\n' "$PASSED" "$FAILED"
    [ "$FAILED" -eq 0 ]
    exit
}

ACKNOWLEDGED=()
# write_run PORT PREFIX: a run of writes; each is repeated until it is acknowledged, within a limit.
write_run() {
    local i
    for ((i = 0; i < WRITES_EACH; i++)); do
        wait_until "$CATCH_UP_SECONDS" put "$1" "$2-$i" "value-$2-$i" || return 1
        ACKNOWLEDGED+=("$2-$i")
    done
}

# every_write_is_on PORT [QUERY]
every_write_is_on() {
    local key
    for key in "${ACKNOWLEDGED[@]}"; do
        reads "$1" "$key" "value-$key" "${2:-}" || return 1
    done
}

every_write_is_everywhere() {
    local port
    for port in "${PORTS[@]}"; do every_write_is_on "$port" || return 1; done
}

catches_up() { wait_until "$CATCH_UP_SECONDS" every_write_is_on "$1" consistency=stale; }

inspect() { docker inspect -f "$1" "$2"; }
is_healthy() { [ "$(inspect '{{.State.Health.Status}}' "$1")" = healthy ]; }
all_healthy() { local id; for id in "${IDS[@]}"; do is_healthy "$id" || return 1; done; }
was_restarted() {
    local count running
    read -r count running < <(inspect '{{.RestartCount}} {{.State.Running}}' "$1")
    [ "$count" -ge 1 ] && [ "$running" = true ]
}
has_new_leader() { local seen; seen="$(leader_seen_by "$1")"; [ -n "$seen" ] && [ "$seen" != "$2" ]; }
leader_index() { local seen; seen="$(leader_seen_by "$1")"; printf '%s' "${seen#node}"; }

seed_walk() {
    local port
    put "${PORTS[0]}" user1 batman || return 1
    for port in "${PORTS[@]}"; do reads "$port" user1 batman || return 1; done
}

is_confined() {
    local id
    for id in "${IDS[@]}"; do
        [ "$(inspect '{{.HostConfig.ReadonlyRootfs}} {{.Config.User}} {{.HostConfig.CapDrop}}' "$id")" = \
            "true 10001:10001 [ALL]" ] || return 1
    done
}

all_stopped_cleanly() {
    local id
    for id in "${IDS[@]}"; do
        [ "$(inspect '{{.State.Running}} {{.State.ExitCode}}' "$id")" = "false 0" ] || return 1
    done
}

if compose up -d >"$COMPOSE_WORK/up.log" 2>&1; then
    pass "the image is built and five containers start"
else
    tail -n 30 "$COMPOSE_WORK/up.log" >&2
    fail "the image is built and five containers start"
    finish
fi
IDS=()
for i in 0 1 2 3 4; do IDS+=("$(compose ps -q "node$i")"); done

check "every node counts five voters" wait_until "$START_SECONDS" all_see_voters 5
[ "$FAILED" -eq 0 ] || finish
check "every container is healthy by its own probe" wait_until "$START_SECONDS" all_healthy
check "containers run without root, capabilities or a writable root" is_confined
check "a write to node0 is read from all five" seed_walk

killed="$(leader_index "${PORTS[0]}")"
other=$(((killed + 1) % 5))
docker kill "${IDS[killed]}" >/dev/null
check "node$killed, the leader, is killed: another leads" \
    wait_until "$CATCH_UP_SECONDS" has_new_leader "${PORTS[other]}" "node$killed"
check "writes go on with four" write_run "${PORTS[other]}" killed
docker start "${IDS[killed]}" >/dev/null
check "node$killed is started again and catches up" catches_up "${PORTS[killed]}"

ended=$(((killed + 2) % 5))
# Its own end, unlike docker kill, is the restart policy's business.
docker exec "${IDS[ended]}" sh -c 'kill -TERM 1'
check "node$ended ends by itself and is restarted by the policy" \
    wait_until "$CATCH_UP_SECONDS" was_restarted "${IDS[ended]}"
check "writes go on meanwhile" write_run "${PORTS[other]}" ended
check "node$ended catches up" catches_up "${PORTS[ended]}"

cut=$(((killed + 3) % 5))
docker network disconnect "${PROJECT}_cluster" "${IDS[cut]}"
check "node$cut loses its network: writes go on" write_run "${PORTS[other]}" cut
docker network connect --alias "node$cut" "${PROJECT}_cluster" "${IDS[cut]}"
check "node$cut is connected again and catches up" catches_up "${PORTS[cut]}"

check "every acknowledged write is on every node" every_write_is_everywhere

compose stop >/dev/null 2>&1
check "all five stop cleanly" all_stopped_cleanly
compose start >/dev/null 2>&1
check "all five start again and find each other" wait_until "$START_SECONDS" has_leader "${PORTS[0]}"
check "nothing was lost" wait_until "$CATCH_UP_SECONDS" every_write_is_everywhere

# Five other containers, in a project of their own.
compose stop >/dev/null 2>&1
demo_passes() {
    VAULTDB_BINARY="$BINARY" scripts/demo.sh --fast --compose --rate 50 >"$COMPOSE_WORK/demo.log" 2>&1 && return
    tail -n 80 "$COMPOSE_WORK/demo.log" >&2
    return 1
}
check "the demo ends well in containers" demo_passes
finish
