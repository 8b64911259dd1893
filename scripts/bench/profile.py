"""Where the time of a write goes: processor time by thread, and the wait in each stage. See scripts/bench-profile.sh.

Informs one decision: what to make cheaper next.
"""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request

import clusters
import machine

NODES = 5
CONNECTIONS = (1, 64, 256)
VALUE_SIZES = ("100", "1KiB", "16KiB")
SIZES_CONNECTIONS = 64
WARMUP_SECONDS = 2
STAGES = ("queue", "propose", "fsync", "quorum", "apply", "answer")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# Threads of one kind share a line.
KINDS = (("actix", "HTTP and actors"), ("raft", "raft"), ("log-", "Raft log"), ("store-", "stage to RocksDB"),
         ("rocksdb", "RocksDB's flushes and compactions"), ("", "other"))


def load(binary, endpoint, connections, seconds, *flags):
    return subprocess.Popen(
        [binary, "bench", "put", "--endpoints", endpoint, "--connections", str(connections), "--duration",
         f"{seconds}s", "--warmup", f"{WARMUP_SECONDS}s", "--output", "json", *flags],
        stdout=subprocess.PIPE,
    )


def result(process, seconds):
    output, _ = process.communicate(timeout=seconds + WARMUP_SECONDS + clusters.START_SECONDS_MAX)
    if process.returncode != 0:
        raise clusters.Failed(f"vaultdb bench ended with {process.returncode}")
    return json.loads(output)["runs"][0]


def threads_us(pid):
    """Microseconds of processor time that each kind of thread has used."""
    used = {kind: 0 for _, kind in KINDS}
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/stat", encoding="utf-8") as stat:
                name, fields = re.match(r"\d+ \((.*)\) (.*)", stat.read()).groups()
        except FileNotFoundError:
            continue
        fields = fields.split()
        ticks = int(fields[11]) + int(fields[12])
        kind = next(kind for prefix, kind in KINDS if name.startswith(prefix))
        used[kind] += ticks * 1_000_000 // TICKS_PER_SECOND
    return used


def stages(cluster, node):
    """Sum in seconds and count of each stage."""
    with urllib.request.urlopen(cluster.url(node, "/metrics"), timeout=clusters.ASK_SECONDS_MAX) as answer:
        text = answer.read().decode()
    found = {}
    for stage in STAGES:
        pattern = r'vaultdb_write_stage_duration_seconds_%s\{stage="' + stage + r'"\} (\S+)'
        found[stage] = [float(re.search(pattern % part, text)[1]) for part in ("sum", "count")]
    return found


def look(cluster, leader):
    """Everything that is compared between begin and end of a measurement."""
    pids = [process.pid for process in cluster.processes]
    return [threads_us(pid) for pid in pids], stages(cluster, leader)


def profile(binary, data, connections, seconds):
    with clusters.VaultDb(binary, NODES, os.path.join(data, "nodes")) as cluster:
        leader = cluster.wait_leader()
        process = load(binary, cluster.endpoint(leader), connections, seconds)
        time.sleep(WARMUP_SECONDS)
        begun, (before, stages_before) = time.monotonic(), look(cluster, leader)
        time.sleep(max(seconds - 1, 1))
        took, (after, stages_after) = time.monotonic() - begun, look(cluster, leader)
        run = result(process, seconds)
    writes = run["requests_per_s"] * took
    spent = [{kind: (after[node][kind] - before[node][kind]) / writes for kind in after[node]} for node in range(NODES)]
    followers = [spent[node] for node in range(NODES) if node != leader]
    follower = {kind: sum(one[kind] for one in followers) / len(followers) for kind in spent[leader]}
    waits = {}
    for stage in STAGES:
        total, count = (a - b for a, b in zip(stages_after[stage], stages_before[stage]))
        waits[stage] = 1_000_000 * total / count if count else 0
    return run, spent[leader], follower, waits


def main():
    binary, data, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    os.makedirs(data, exist_ok=True)
    print("\n".join(machine.describe(data)))
    print(f"- {NODES} nodes and the load on this machine, 100-byte values, {seconds} s each\n", flush=True)
    runs = [(connections, *profile(binary, data, connections, seconds)) for connections in CONNECTIONS]
    head = " | ".join(f"{connections}" for connections in CONNECTIONS)
    line = "|---|" + "---:|" * len(CONNECTIONS)
    print(f"Processor time of a write in µs, by connections:\n\n| thread | {head} |\n{line}")
    for place, who in ((2, "leader"), (3, "each follower")):
        for _, kind in KINDS:
            cells = " | ".join(f"{run[place][kind]:.1f}" for run in runs)
            print(f"| {who}: {kind} | {cells} |")
    cells = " | ".join(f"{run[1]['client_cpu_us_per_request']:.1f}" for run in runs)
    print(f"| load generator | {cells} |")
    cells = " | ".join(f"{run[1]['requests_per_s']:.0f}" for run in runs)
    print(f"| *writes/s* | {cells} |\n")
    print(f"Mean time in each stage on the leader in µs, by connections:\n\n| stage | {head} |\n{line}")
    for stage in STAGES:
        print(f"| {stage} | " + " | ".join(f"{run[4][stage]:.0f}" for run in runs) + " |")
    print(f"\nBy size of value, {SIZES_CONNECTIONS} connections:\n\n| value | writes/s | MiB/s of values | p50 ms | p99 ms |")
    print("|---|---:|---:|---:|---:|")
    for size in VALUE_SIZES:
        with clusters.VaultDb(binary, NODES, os.path.join(data, "nodes")) as cluster:
            endpoint = cluster.endpoint(cluster.wait_leader())
            run = result(load(binary, endpoint, SIZES_CONNECTIONS, seconds, "--value-size", size, "--keys", "10000"), seconds)
        rate = run["requests_per_s"]
        print(f"| {size} | {rate:.0f} | {rate * run['value_bytes'] / 2**20:.1f} | {run['latency_us_p50'] / 1000:.2f} | "
              f"{run['latency_us_p99'] / 1000:.2f} |", flush=True)


if __name__ == "__main__":
    clusters.run_script("bench-profile", main)
