"""Starts a cluster, loads its leader with `vaultdb bench put`, and stops it. See scripts/bench-writes.sh."""

import os
import subprocess
import sys

import clusters
import machine


def main():
    binary, data, nodes, *flags = sys.argv[1:]
    os.makedirs(data, exist_ok=True)
    print("\n".join(machine.describe(data)))
    print(f"- {nodes} nodes and the load on this machine\n", flush=True)
    try:
        with clusters.VaultDb(binary, int(nodes), os.path.join(data, "nodes")) as cluster:
            endpoint = cluster.endpoint(cluster.wait_leader())
            return subprocess.run([binary, "bench", "put", "--endpoints", endpoint, *flags], check=False).returncode
    except clusters.Failed as error:
        print(f"bench-writes: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    clusters.end_in_order_when_terminated()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
