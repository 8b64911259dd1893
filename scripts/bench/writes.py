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
    with clusters.VaultDb(binary, int(nodes), os.path.join(data, "nodes")) as cluster:
        endpoint = cluster.endpoint(cluster.wait_leader())
        return subprocess.run([binary, "bench", "put", "--endpoints", endpoint, *flags], check=False).returncode


if __name__ == "__main__":
    clusters.run_script("bench-writes", main)
