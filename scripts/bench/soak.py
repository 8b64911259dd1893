"""Five nodes of VaultDB under sustained load: does their memory stay small, and does it stop growing?

Started by scripts/bench-soak.sh. Exit code 1 when a node's memory was above the goal at any sample.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import clusters
import machine

NODES = 5
# Goal: no node above this, with the default cache.
RESIDENT_MIB_MAX = 300
# The slope leaves out the start, in which caches and memtables fill: this share of the time.
SETTLE_SHARE = 0.2
SLACK_SECONDS = 60


def slope_mib_per_minute(samples):
    """Least squares over (seconds, MiB)."""
    count = len(samples)
    if count < 2:
        return 0.0
    mean_t = sum(t for t, _ in samples) / count
    mean_m = sum(m for _, m in samples) / count
    spread = sum((t - mean_t) ** 2 for t, _ in samples)
    return 60 * sum((t - mean_t) * (m - mean_m) for t, m in samples) / spread if spread else 0.0


def sample(cluster, load, seconds, interval):
    """For each node the list of (seconds since the start, resident MiB), until the load ends."""
    found = [[] for _ in range(cluster.nodes)]
    began = time.monotonic()
    due = began
    while load.poll() is None:
        now = time.monotonic()
        if now - began > seconds + SLACK_SECONDS:
            raise clusters.Failed(f"the load has not ended within {seconds + SLACK_SECONDS} s")
        if now >= due:
            due += interval
            memory = cluster.memory_mib()
            for node, (resident, _) in enumerate(memory):
                found[node].append((now - began, resident))
            print(f"  {now - began:4.0f} s: {' '.join(f'{now:.0f}' for now, _ in memory)} MiB", file=sys.stderr, flush=True)
        time.sleep(min(1.0, interval))
    return found


def soak(args):
    with clusters.VaultDb(args.vaultdb, NODES, os.path.join(args.data, "soak")) as cluster:
        leader = cluster.wait_leader()
        command = [
            args.vaultdb, "bench", "put", "--endpoints", cluster.endpoint(leader),
            "--connections", str(args.connections), "--duration", f"{args.seconds}s",
            "--warmup", "0s", "--keys", str(args.keys),
        ]
        with tempfile.TemporaryFile("w+") as out:
            load = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out)
            try:
                samples = sample(cluster, load, args.seconds, args.interval)
            finally:
                if load.poll() is None:
                    load.kill()
                    load.wait()
            out.seek(0)
            result = out.read()
        if load.returncode != 0:
            raise clusters.Failed(f"the load ended with {load.returncode}\n{result}")
        peaks = [peak for _, peak in cluster.memory_mib()]
    return leader, samples, peaks, result


def main():
    parser = argparse.ArgumentParser(prog="bench-soak", description="Memory of five nodes under sustained load.")
    for name in ("vaultdb", "data"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=600, help="how long (default 600)")
    parser.add_argument("--interval", type=float, default=10, help="seconds between two samples (default 10)")
    parser.add_argument("--connections", type=int, default=256, help="clients, all at the leader (default 256)")
    parser.add_argument("--keys", type=int, default=100_000, help="distinct keys (default 100000)")
    args = parser.parse_args()
    if not (1 <= args.seconds <= 86_400 and 0.1 <= args.interval <= args.seconds):
        parser.error("--seconds 1 to 86400, --interval 0.1 to --seconds")
    os.makedirs(args.data, exist_ok=True)
    about = machine.describe(args.data)
    leader, samples, peaks, result = soak(args)
    print("\n".join(about))
    print(f"- {NODES} nodes, {args.connections} connections to the leader for {args.seconds} s, {args.keys} keys\n")
    print(result)
    print("| node | first MiB | last MiB | largest MiB | peak MiB | slope MiB/min |\n|---|---|---|---|---|---|")
    for node, found in enumerate(samples):
        resident = [mib for _, mib in found]
        settled = [at for at in found if at[0] >= SETTLE_SHARE * args.seconds]
        print(
            f"| node{node}{' (leader)' if node == leader else ''} | {resident[0]:.0f} | {resident[-1]:.0f} "
            f"| {max(resident):.0f} | {peaks[node]:.0f} | {slope_mib_per_minute(settled):+.1f} |"
        )
    print(f"\nThe slope leaves out the first {SETTLE_SHARE:.0%} of the time. Peak is the kernel's VmHWM.")
    worst = max(peaks)
    print(f"Goal: at most {RESIDENT_MIB_MAX} MiB a node: {'kept' if worst <= RESIDENT_MIB_MAX else 'MISSED'} ({worst:.0f} MiB).")
    return 0 if worst <= RESIDENT_MIB_MAX else 1


if __name__ == "__main__":
    clusters.run_script("bench-soak", main)
