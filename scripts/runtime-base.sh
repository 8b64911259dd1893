#!/usr/bin/env bash
# Makes sure that the engine has the base image of the runtime stage.
#
# Where a registry is reachable the public image is pulled. Where none is, an
# image of the same name is made with debootstrap from the Debian mirror that
# this machine's apt is configured with, so that the same Dockerfile can be
# built without a registry. Does nothing when the image is already there.
set -euo pipefail

IMAGE="debian:bookworm-slim"
SUITE="bookworm"
# A registry that does not answer within this time counts as unreachable.
PULL_SECONDS_MAX="${PULL_SECONDS_MAX:-120}"

say() { printf 'runtime-base: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The first archive in apt's own configuration that carries the suite. Both of
# apt's formats are read: one-line .list files and deb822 .sources files.
find_mirror() {
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ -r "$file" ] || continue
        awk -v suite="$SUITE" '
            $1 == "deb" {
                sub(/\[[^]]*\]/, "")
                if ($3 == suite) { print $2; exit }
            }' "$file"
    done
    for file in /etc/apt/sources.list.d/*.sources; do
        [ -r "$file" ] || continue
        awk -v suite="$SUITE" '
            function flush_stanza(   i, n, parts) {
                n = split(suites, parts, " ")
                for (i = 1; i <= n && !found; i++)
                    if (parts[i] == suite && uris != "" && enabled != "no") { print uris; found = 1 }
                suites = ""; uris = ""; enabled = ""
            }
            /^[ \t]*$/ { flush_stanza(); next }
            tolower($1) == "uris:" { uris = $2 }
            tolower($1) == "enabled:" { enabled = tolower($2) }
            tolower($1) == "suites:" { $1 = ""; suites = $0 }
            END { if (!found) flush_stanza() }' "$file"
    done
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

command -v docker >/dev/null 2>&1 || die "docker is not installed"
docker info >/dev/null 2>&1 || die "no docker engine answers"

if docker image inspect "$IMAGE" >/dev/null 2>&1; then
    say "$IMAGE is there already"
    exit 0
fi
if timeout "$PULL_SECONDS_MAX" docker pull --quiet "$IMAGE" >/dev/null 2>&1; then
    say "pulled $IMAGE"
    exit 0
fi

command -v debootstrap >/dev/null 2>&1 ||
    die "no registry is reachable and debootstrap is not installed (apt-get install debootstrap)"
if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null 2>&1; then
    die "no registry is reachable, and debootstrap needs root"
fi
mirror="$(find_mirror | head -n 1)"
[ -n "$mirror" ] || die "apt's configuration names no mirror that carries $SUITE"

# apt may reach its mirror through a proxy that only it knows of.
if [ -z "${http_proxy:-}" ] && command -v apt-config >/dev/null 2>&1; then
    eval "$(apt-config shell http_proxy Acquire::http::Proxy)"
    if [ -n "${http_proxy:-}" ]; then export http_proxy; fi
fi

say "no registry is reachable: making $IMAGE with debootstrap from apt's mirror (a minute or two)"
work="$(mktemp -d "${TMPDIR:-/tmp}/vaultdb-base.XXXXXX")"
trap 'as_root rm -rf "$work"' EXIT

if ! as_root env ${http_proxy:+http_proxy="$http_proxy"} \
    debootstrap --variant=minbase "$SUITE" "$work/root" "$mirror" >"$work/log" 2>&1; then
    tail -n 20 "$work/log" >&2
    die "debootstrap failed"
fi
# What the public slim image leaves out as well: package caches and documentation.
as_root rm -rf "$work/root/var/cache/apt/archives" "$work/root/var/lib/apt/lists" \
    "$work/root/usr/share/doc" "$work/root/usr/share/man" "$work/root/usr/share/locale"
as_root mkdir -p "$work/root/var/cache/apt/archives/partial" "$work/root/var/lib/apt/lists/partial"
as_root tar -C "$work/root" --one-file-system -c . |
    docker import --change 'CMD ["bash"]' - "$IMAGE" >/dev/null
say "made $IMAGE"
