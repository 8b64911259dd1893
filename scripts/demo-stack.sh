#!/usr/bin/env bash
# The demo's five containers: docker-compose.yml with config/compose-faults.yml. Called by scripts/demo.sh and
# scripts/demo/containers.py.
#
#   demo-stack.sh check   false, with the reason, where containers cannot run the binary BINARY
#   demo-stack.sh up      builds, starts, prints the five containers' ids in order
#   demo-stack.sh down    removes all of it
#
# `up` and `down` take PROJECT, COMPOSE_IMAGE, COMPOSE_WORK and HTTP_PORT_0 to HTTP_PORT_4.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/compose-lib.sh

find_engine
COMPOSE_MORE=(-f config/compose-faults.yml)
case "${1:-}" in
check) runs_in_base "$BINARY" ;;
up)
    write_context "$BINARY"
    compose up -d >&2
    for i in 0 1 2 3 4; do
        docker ps -aq --no-trunc --filter "label=com.docker.compose.project=$PROJECT" \
            --filter "label=com.docker.compose.service=node$i"
    done
    ;;
down) remove_project ;;
*) echo "usage: demo-stack.sh check|up|down" >&2; exit 2 ;;
esac
