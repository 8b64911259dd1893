# What the scripts share that run docker-compose.yml under test. Source it from bash, in the project's directory.
#
# They set: PROJECT, the compose project's name; COMPOSE_IMAGE (exported), the image's; COMPOSE_WORK, a directory
# of their own for what is generated. The binary is put into an image of the Dockerfile's runtime stage, so that
# no registry and no second compilation is needed.

BASE_IMAGE="debian:bookworm-slim"

# find_engine: sets COMPOSE; without an engine and its compose, prints why and is false.
find_engine() {
    command -v docker >/dev/null 2>&1 || { echo "docker is not installed"; return 1; }
    docker info >/dev/null 2>&1 || { echo "no docker engine answers"; return 1; }
    if docker compose version >/dev/null 2>&1; then
        COMPOSE=(docker compose)
    elif command -v docker-compose >/dev/null 2>&1; then
        COMPOSE=(docker-compose)
    else
        echo "neither docker compose nor docker-compose is installed"
        return 1
    fi
}

# runs_in_base BINARY: false, with the reason, when the binary cannot start in the runtime image; 2 when the
# reason is not just a newer C library.
runs_in_base() {
    local said
    scripts/runtime-base.sh || { echo "there is no $BASE_IMAGE and it could not be made"; return 1; }
    if ! said="$(docker run --rm --network none -v "$(realpath "$1"):/vaultdb:ro" --entrypoint /vaultdb \
        "$BASE_IMAGE" --version 2>&1)"; then
        case "$said" in
        *GLIBC*) echo "the binary built here needs a newer C library than $BASE_IMAGE has"; return 1 ;;
        *) echo "the binary does not start in $BASE_IMAGE: $said"; return 2 ;;
        esac
    fi
}

# write_context BINARY: a build context with the finished binary. Only the compile stage differs from what a user runs.
write_context() {
    mkdir -p "$COMPOSE_WORK/context"
    cp Dockerfile "$COMPOSE_WORK/context/"
    cp "$1" "$COMPOSE_WORK/context/vaultdb"
    cat >"$COMPOSE_WORK/override.yml" <<YAML
services:
  node0:
    build:
      context: $COMPOSE_WORK/context
      args:
        BUILD_IMAGE: $BASE_IMAGE
        PREBUILT: vaultdb
YAML
    nameless_images >"$COMPOSE_WORK/nameless-before"
}

compose() {
    "${COMPOSE[@]}" -p "$PROJECT" --project-directory . -f docker-compose.yml -f "$COMPOSE_WORK/override.yml" \
        "${COMPOSE_MORE[@]}" "$@"
}
# Further files with settings, as `-f FILE`.
COMPOSE_MORE=()

# The engine's older builder leaves the build stage behind as an image without a name.
nameless_images() { docker images -q --no-trunc --filter dangling=true | sort; }

# Removes containers, volumes, network and images of the project, and nothing that somebody else made meanwhile.
remove_project() {
    local image
    compose down -v --remove-orphans -t 1 >/dev/null 2>&1 || true
    docker image rm "$COMPOSE_IMAGE" >/dev/null 2>&1 || true
    for image in $(nameless_images | comm -13 "$COMPOSE_WORK/nameless-before" -); do
        if [ "$(docker image inspect -f '{{.Config.WorkingDir}}' "$image" 2>/dev/null)" = /src ]; then
            docker image rm "$image" >/dev/null 2>&1 || true
        fi
    done
}
