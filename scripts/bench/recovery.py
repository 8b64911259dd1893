"""How long five nodes do not take writes: while they form a cluster, restart, lose their leader, take a node back.

Started by scripts/bench-recovery.sh. Informs two decisions: how long the election timeouts are, and whether pre-vote
pays. A writer sends one small write after another, each to the next node that runs, each with little patience; what counts
is the time until one that began after the event succeeds. A node that is cut off is stopped (SIGSTOP), which works on every
machine and for every system alike: to the others it falls silent, and when it goes on it finds that its time is over.
"""

import argparse
import base64
import http.client
import json
import os
import signal
import statistics
import sys
import threading
import time

import clusters
import figures
import loads
import machine

NODES = 5
# Longest that one write of the probe waits for its answer, in seconds; then it tries the next node.
PATIENCE_SECONDS = 0.2
PROBE_SECONDS_MAX = 60
# Pause between two looks at what is not there yet, in seconds.
LOOK_SECONDS = 0.005
# How long a node is away, and how long the others are watched after it is back.
AWAY_SECONDS = 3
BACK_SECONDS = 2
PREFILL_BATCH = 100
VALUE = "v" * 100


def say(text):
    print(text, file=sys.stderr, flush=True)


class Equal(clusters.VaultDb):
    """Nodes that form the cluster by themselves, all started alike."""

    formed_at = None

    def command(self, node):
        peers = ",".join(self.endpoint(number) for number in range(self.nodes))
        return [
            self.binary, "-id", f"node{node}", "-haddr", self.endpoint(node), "-raddr", f"localhost:{self.peer_port + node}",
            "--bootstrap-expect", str(self.nodes), "--peers", peers, os.path.join(self.directory, f"node{node}"),
        ]

    def request(self, key):
        return "PUT", f"/v1/kv/{key}?timeout={round(PATIENCE_SECONDS * 1000)}ms", "v"

    def fill(self, keys):
        endpoint = self.endpoint(self.wait_leader())
        loads.prefill([self.binary, "bench", "get", "--output", "json", "--endpoints", endpoint], keys)

    def term(self):
        found = [clusters.ask(self.url(node, "/status")) for node in range(self.nodes)]
        return max(status["cluster"]["term"] for status in found if status)


class EtcdProbed(clusters.Etcd):
    def request(self, key):
        body = {"key": base64.b64encode(key.encode()).decode(), "value": "dg=="}
        return "POST", "/v3/kv/put", json.dumps(body)

    def fill(self, keys):
        leader = self.wait_leader()
        connection = http.client.HTTPConnection("127.0.0.1", self.client_port + leader, timeout=30)
        value = base64.b64encode(VALUE.encode()).decode()
        for first in range(0, keys, PREFILL_BATCH):
            puts = [
                {"requestPut": {"key": base64.b64encode(f"{key:016}".encode()).decode(), "value": value}}
                for key in range(first, min(first + PREFILL_BATCH, keys))
            ]
            connection.request("POST", "/v3/kv/txn", json.dumps({"success": puts}))
            answer = connection.getresponse()
            if answer.status != 200 or b'"succeeded":true' not in answer.read():
                raise clusters.Failed(f"etcd refused a batch of keys: {answer.status}")
        connection.close()

    def term(self):
        found = [clusters.ask(self.url(node, "/v3/maintenance/status"), {}) for node in range(self.nodes)]
        return max(int(status["raftTerm"]) for status in found if status)


class Writer:
    """One write after another, to `nodes` in turn; remembers when those that succeeded began and ended."""

    def __init__(self, cluster, nodes):
        self.cluster = cluster
        self.nodes = list(nodes)
        self.acked = []
        self.failed = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(timeout=PROBE_SECONDS_MAX)

    def run(self):
        at, connection = 0, None
        while not self.over.is_set():
            begun = time.monotonic()
            if connection is None:
                port = self.cluster.client_port + self.nodes[at % len(self.nodes)]
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)
            try:
                method, path, body = self.cluster.request(f"probe{at % 100}")
                connection.request(method, path, body)
                answer = connection.getresponse()
                answer.read()
                succeeded = answer.status == 200
            except (OSError, http.client.HTTPException):
                succeeded = False
            if succeeded:
                self.acked.append((begun, time.monotonic()))
            else:
                self.failed.append(begun)
                connection.close()
                connection = None
                at += 1
                time.sleep(LOOK_SECONDS)

    def first_after(self, moment):
        """When the first write that began after `moment` was acknowledged, in seconds after it."""
        def look():
            found = next((ended for begun, ended in reversed_until(self.acked, moment)), None)
            return None if found is None else found - moment

        deadline = time.monotonic() + PROBE_SECONDS_MAX
        while (waited := look()) is None:
            if time.monotonic() >= deadline:
                raise clusters.Failed(f"{self.cluster.name}: no write within {PROBE_SECONDS_MAX} s")
            time.sleep(LOOK_SECONDS)
        return waited

    def longest_gap(self, since):
        """Longest time between two acknowledged writes from `since` on."""
        ends = [since, *(ended for _, ended in self.acked if ended >= since)]
        return max((b - a for a, b in zip(ends, ends[1:])), default=0.0)


def reversed_until(acked, moment):
    """Those that began after `moment`, in order; looks at no more of a long list than needed."""
    first = len(acked)
    while first and acked[first - 1][0] >= moment:
        first -= 1
    return acked[first:]


class Recovery:
    def __init__(self, args):
        self.args = args
        # (system, event) -> seconds; and of the return of a node: failed writes, terms that passed, leaders that changed.
        self.times = {}
        self.disturbed = {}
        self.joins = {}

    def systems(self):
        def data(name):
            return os.path.join(self.args.data, name)

        yield "VaultDB", lambda: Equal(self.args.vaultdb, NODES, data("pre-vote"))
        yield "without pre-vote", lambda: Equal(self.args.vaultdb, NODES, data("none"), {"VAULTDB_PRE_VOTE": "false"})
        yield "etcd", lambda: EtcdProbed(self.args.etcd, NODES, data("etcd"))

    def note(self, system, event, seconds):
        self.times.setdefault((system, event), []).append(seconds)
        say(f"  {system}: {event}: {seconds * 1000:.0f} ms")

    def form(self, system, cluster, used):
        """The cluster's own start waits in long steps: a writer finds the first acknowledged write meanwhile."""
        writer = Writer(cluster, range(NODES))
        with writer:
            with cluster:
                first_write = writer.first_after(cluster.started)
                self.note(system, "formation", first_write)
                writer.over.set()
                if used:
                    self.use(system, cluster)

    def use(self, system, cluster):
        for _ in range(self.args.kills):
            self.kill_leader(system, cluster)
        for _ in range(self.args.returns):
            self.bring_back(system, cluster)
        cluster.fill(self.args.keys)
        cluster.wait_idle()
        for _ in range(self.args.restarts):
            self.restart(system, cluster)

    def kill_leader(self, system, cluster):
        leader = cluster.wait_leader()
        with Writer(cluster, (node for node in range(NODES) if node != leader)) as writer:
            writer.first_after(time.monotonic())
            cluster.processes[leader].kill()
            moment = time.monotonic()
            self.note(system, "leader killed", writer.first_after(moment))
        cluster.processes[leader].wait(timeout=clusters.STOP_SECONDS_MAX)
        cluster.processes[leader] = cluster.spawn(leader)
        cluster.wait_leader()

    def bring_back(self, system, cluster):
        leader, term = cluster.wait_leader(), cluster.term()
        away = (leader + 1) % NODES
        with Writer(cluster, (node for node in range(NODES) if node != away)) as writer:
            writer.first_after(time.monotonic())
            cluster.processes[away].send_signal(signal.SIGSTOP)
            try:
                time.sleep(AWAY_SECONDS)
            finally:
                cluster.processes[away].send_signal(signal.SIGCONT)
            moment = time.monotonic()
            time.sleep(BACK_SECONDS)
            self.note(system, "a node returns", writer.longest_gap(moment))
            failed = sum(begun >= moment for begun in writer.failed)
        moved = cluster.wait_leader() != leader
        self.disturbed.setdefault(system, []).append((failed, cluster.term() - term, moved))

    def restart(self, system, cluster):
        for process in cluster.processes:
            process.kill()
        for process in cluster.processes:
            process.wait(timeout=clusters.STOP_SECONDS_MAX)
        cluster.processes = [cluster.spawn(node) for node in range(NODES)]
        moment = time.monotonic()
        with Writer(cluster, range(NODES)) as writer:
            self.note(system, "restart of all", writer.first_after(moment))
        cluster.wait_leader()

    def join(self, keys):
        """Of an empty node to a cluster of three that holds `keys`."""
        cluster = clusters.VaultDb(self.args.vaultdb, 3, os.path.join(self.args.data, "join"))
        with cluster:
            loads.prefill(
                [self.args.vaultdb, "bench", "get", "--output", "json", "--endpoints", cluster.endpoint(cluster.wait_leader())],
                keys,
            )
            cluster.wait_idle()
            began = time.monotonic()
            cluster.nodes = 4
            cluster.processes.append(cluster.spawn(3))
            clusters.wait_until("an empty node is a voter", 600, cluster.formed)
            self.joins[keys] = time.monotonic() - began
            say(f"  join at {keys:,} keys: {self.joins[keys]:.1f} s")

    def run(self):
        for number in range(1, self.args.rounds + 1):
            say(f"round {number} of {self.args.rounds}")
            for system, make in self.systems():
                for last in range(self.args.forms):
                    self.form(system, make(), last == self.args.forms - 1)
        for keys in self.args.joins:
            self.join(keys)

    def tables(self):
        events = ["formation", "restart of all", "leader killed", "a node returns"]
        names = [name for name, _ in self.systems()]
        rows = []
        for event in events:
            of = [[seconds * 1000 for seconds in self.times[(name, event)]] for name in names]
            ours, bare, etcd = (statistics.median(each) for each in of)
            rows.append([
                event, str(len(of[0])), *(f"{statistics.median(each):.0f} / {max(each):.0f}" for each in of),
                f"{ours / etcd:.2f}", f"{100 * (1 - ours / bare):.0f} %",
            ])
        lines = figures.table(
            ["until the next acknowledged write, ms", "runs", *(f"{name}: median / worst" for name in names), "to etcd",
             "saved by pre-vote"],
            rows,
        )
        rows = []
        for name in names:
            failed, terms, moved = zip(*self.disturbed[name])
            rows.append([name, str(len(failed)), str(sum(failed)), str(sum(terms)), str(sum(moved))])
        lines += ["", *figures.table(["a node returns", "times", "failed writes", "terms passed", "leaders changed"], rows)]
        joins = [[f"{keys:,}", f"{seconds:.1f}"] for keys, seconds in self.joins.items()]
        return lines + ["", *figures.table(["keys", "an empty node is a voter after, s"], joins)]


def parse():
    parser = argparse.ArgumentParser(prog="bench-recovery", description="Formation, failover and recovery beside etcd.")
    for name in ("vaultdb", "etcd", "data"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="rounds over all systems (default 3, with --fast 2)")
    parser.add_argument("--keys", type=int, help="keys when all restart (default 1000000, with --fast 50000)")
    parser.add_argument("--joins", help="keys when an empty node joins (default 100000,1000000,5000000, with --fast 100000)")
    parser.add_argument("--fast", action="store_true", help="short runs: about 3 minutes in place of 10")
    parser.add_argument("--output", metavar="FILE", help="also write the tables to this file")
    parser.add_argument("--json", metavar="FILE", help="also write every figure to this file")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.fast else 3)
    args.keys = args.keys or (50_000 if args.fast else 1_000_000)
    args.forms, args.kills, args.returns, args.restarts = (2, 3, 1, 1) if args.fast else (4, 7, 2, 3)
    try:
        args.joins = [int(keys) for keys in (args.joins or ("100000" if args.fast else "100000,1000000,5000000")).split(",")]
    except ValueError:
        parser.error("--joins: numbers such as 100000,1000000")
    if not (1 <= args.rounds <= 100 and 1 <= args.keys <= 10_000_000 and all(1 <= keys <= 10_000_000 for keys in args.joins)):
        parser.error("--rounds 1 to 100, --keys and --joins 1 to 10000000")
    return args


def main():
    args = parse()
    os.makedirs(args.data, exist_ok=True)
    recovery = Recovery(args)
    lines = machine.describe(args.data)
    lines += [
        f"- {figures.version(args.vaultdb, '--version')} against {figures.version(args.etcd, '--version')}; {NODES} nodes and "
        "the writer on this one machine, one system at a time, defaults",
        f"- {args.rounds} rounds of {args.forms} fresh clusters of each in turn, the last of them used; restarts at {args.keys:,} keys; a node is away for {AWAY_SECONDS} s and "
        f"watched for {BACK_SECONDS} s after: the longest time between two acknowledged writes",
    ]
    recovery.run()
    text = "\n".join([*lines, "", *recovery.tables()]) + "\n"
    print(text, end="")
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(text)
    if args.json:
        times = {f"{system}: {event}": each for (system, event), each in recovery.times.items()}
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"machine": lines, "seconds": times, "disturbed": recovery.disturbed, "joins": recovery.joins}, file, indent=1)
    return 0


if __name__ == "__main__":
    clusters.run_script("bench-recovery", main)
