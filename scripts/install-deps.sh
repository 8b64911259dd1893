#!/usr/bin/env bash
# Installs what building VaultDB needs beyond Rust, on Debian and its kin. With
# --test also what the scripts under test call, with --bench what the scripts
# that measure call, with --compare also what building etcd's driver needs. Does
# nothing when all is there.
set -euo pipefail

say() { printf 'install-deps: %s\n' "$*"; }

with_tests=no
with_python=no
with_compare=no
case "${1:-}" in
"") ;;
--test) with_tests=yes with_python=yes ;;
--bench) with_python=yes ;;
--compare) with_python=yes with_compare=yes ;;
*) say "unknown argument \"$1\"; usage: install-deps.sh [--test | --bench | --compare]" >&2; exit 2 ;;
esac

have() { command -v "$1" >/dev/null 2>&1; }

# bindgen loads libclang while RocksDB's bindings are generated.
have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return
    local file
    for file in /usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so* /usr/lib64/libclang*.so*; do
        [ -e "$file" ] && return
    done
    return 1
}

missing=()
have g++ || missing+=(g++)
have make || missing+=(make)
have clang || missing+=(clang)
have_libclang || missing+=(libclang-dev)
# Not needed, but RocksDB takes ten minutes to compile on two cores: once is enough.
have ccache || missing+=(ccache)
if [ "$with_tests" = yes ]; then
    have curl || missing+=(curl)
    # Brings promtool, which checks the alert rules.
    have promtool || missing+=(prometheus)
    # Drives the dashboard. Without it those tests skip, so a system that has none goes on.
    if ! have chromium && ! have chromium-browser && ! have google-chrome && have apt-get &&
        apt-cache show chromium >/dev/null 2>&1; then
        missing+=(chromium)
    fi
    # Makes the runtime image where no registry is reachable; of use only with an engine.
    if have docker && docker info >/dev/null 2>&1 &&
        ! docker image inspect debian:bookworm-slim >/dev/null 2>&1; then
        have debootstrap || missing+=(debootstrap)
    fi
fi

if [ "$with_python" = yes ]; then
    have python3 || missing+=(python3)
fi
if [ "$with_compare" = yes ]; then
    # Debian ships Python without what `python3 -m venv` needs.
    { have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null; } || missing+=(python3-venv)
    # etcd's client for Rust generates its stubs while it is built.
    have protoc || missing+=(protobuf-compiler)
    [ -e /usr/include/google/protobuf/descriptor.proto ] || missing+=(libprotobuf-dev)
fi

if [ "${#missing[@]}" -gt 0 ]; then
    if ! have apt-get; then
        say "missing: ${missing[*]}; install them with this system's package manager" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        have sudo || { say "missing: ${missing[*]}; run as root: apt-get install ${missing[*]}" >&2; exit 1; }
        as_root=(sudo)
        # Without a terminal nobody could type a password.
        [ -t 0 ] || as_root+=(-n)
    fi
    say "installing with apt-get: ${missing[*]}"
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

if ! have cargo; then
    say "Rust is not installed; see https://rustup.rs" >&2
    exit 1
fi
