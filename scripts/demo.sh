#!/usr/bin/env bash
# Five nodes that are broken in seven ways under a load, and heal. See --help and docs/operations.md.
#
# As containers where an engine runs and can run the binary, otherwise as processes; --compose or --processes
# choose. VAULTDB_BINARY names another binary than the release build.
set -euo pipefail
cd "$(dirname "$0")/.."

BINARY="${VAULTDB_BINARY:-${CARGO_TARGET_DIR:-target}/release/vaultdb}"
# A node takes VAULTDB_* for its settings and refuses those that it does not know.
unset VAULTDB_BINARY
export BINARY

[ -x "$BINARY" ] || { echo "demo: $BINARY is missing: run make build" >&2; exit 1; }

way=()
case " $* " in
*" --processes "* | *" --help "* | *" -h "*) ;;
*)
    if reason="$(scripts/demo-stack.sh check)"; then
        way=(--compose)
    else
        case " $* " in *" --compose "*) echo "demo: $reason" >&2; exit 1 ;; esac
        echo "demo: as processes: $reason" >&2
    fi
    ;;
esac

# Python ends what it started, also when it is interrupted.
export PYTHONPATH=scripts/bench
exec python3 -B scripts/demo/demo.py --binary "$BINARY" "${way[@]}" "$@"
