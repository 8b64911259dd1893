"""VaultDB and etcd in turn, with the same load, on one machine; prints Markdown.

Started by scripts/bench-compare.sh, which builds what it needs. Rounds are interleaved (VaultDB, etcd,
VaultDB, etcd, …), each on fresh clusters, of which only one runs at a time, so that a drift of the
machine falls on both.
"""

import argparse
import os
import sys

import clusters
import loads
import machine
from figures import failures, latency, middle, rate, ratio, table, version, way_text

CLIENTS = [1, 64, 256]
# On this many nodes also batches and writes to a follower are measured.
LARGEST = 5
# Ways to drive etcd: numbers of gRPC connections, or its JSON gateway. All are tried on each size of cluster
# before the rounds. Those nearly as fast as the fastest are then measured in every round, and the one with
# the best median counts.
WAYS = {1: [1, "json"], 64: [1, 8, "json"], 256: [1, 4, 16, "json"]}
CONTENDERS_MAX = 2
CONTENDER_SHARE_MIN = 0.85
BATCH_CLIENTS = 64
# Transactions of puts over the gateway would be larger and slower still.
BATCH_WAYS = [1, 8]
BATCH_PAIRS = 100
TRIAL = (2.0, 0.5)
TRIAL_FAST = (1.0, 0.3)


def say(text):
    print(text, file=sys.stderr, flush=True)


class Comparison:
    def __init__(self, args):
        self.args = args
        self.time = (args.seconds, args.warmup)
        # (system, nodes, clients, what, way) -> one report for each round; way is None for VaultDB.
        self.reports = {}
        # (system, nodes) -> for each round the memory of all nodes.
        self.memory = {}
        # (nodes, clients) -> the ways that etcd is measured over; and all that were tried.
        self.ways = {}
        self.trials = []

    def cluster(self, system, nodes):
        if system == "VaultDB":
            return clusters.VaultDb(self.args.vaultdb, nodes, os.path.join(self.args.data, "vaultdb"))
        return clusters.Etcd(self.args.etcd, nodes, os.path.join(self.args.data, "etcd"))

    def try_ways(self, nodes):
        time = TRIAL_FAST if self.args.fast else TRIAL
        with self.cluster("etcd", nodes) as cluster:
            for clients in CLIENTS:
                rates = {}
                for way in WAYS[clients]:
                    endpoint = cluster.endpoint(cluster.wait_leader())
                    report = loads.etcd(self.args.etcd_load, endpoint, clients, time, way)
                    rates[way] = report["requests_per_s"]
                    self.trials.append((nodes, clients, way, report))
                    say(f"  etcd, {clients} clients, {way_text(way)}: {rates[way]:.0f}/s")
                ranked = sorted(rates, key=rates.get, reverse=True)
                fast = [way for way in ranked if rates[way] >= CONTENDER_SHARE_MIN * rates[ranked[0]]]
                self.ways[(nodes, clients)] = fast[:CONTENDERS_MAX]

    def measure(self, cluster, clients, what, way=None):
        leader = cluster.wait_leader()
        target = (leader + 1) % cluster.nodes if what == "follower" else leader
        endpoint, operation = cluster.endpoint(target), "batch" if what == "batch" else "put"
        if cluster.name == "VaultDB":
            report = loads.vaultdb(self.args.vaultdb, endpoint, clients, self.time, operation)
        else:
            report = loads.etcd(self.args.etcd_load, endpoint, clients, self.time, way, operation)
        report["leader_moved"] = cluster.wait_leader() != leader
        self.reports.setdefault((cluster.name, cluster.nodes, clients, what, way), []).append(report)
        say(
            f"  {cluster.name}, {clients} clients, {what}{f', {way_text(way)}' if way else ''}: "
            f"{report['pairs_per_s']:.0f}/s, p50 {report['latency_us_p50'] / 1000:.2f} ms, "
            f"p99 {report['latency_us_p99'] / 1000:.2f} ms"
        )

    def round(self, system, nodes):
        with self.cluster(system, nodes) as cluster:
            for clients in CLIENTS:
                for way in [None] if system == "VaultDB" else self.ways[(nodes, clients)]:
                    self.measure(cluster, clients, "leader", way)
            if nodes == LARGEST:
                if system == "VaultDB":
                    for clients in CLIENTS:
                        self.measure(cluster, clients, "follower")
                for way in [None] if system == "VaultDB" else BATCH_WAYS:
                    self.measure(cluster, BATCH_CLIENTS, "batch", way)
            self.memory.setdefault((system, nodes), []).append(cluster.memory_mib())

    def run(self):
        for nodes in self.args.nodes:
            say(f"{nodes} nodes, ways to drive etcd")
            self.try_ways(nodes)
            for number in range(1, self.args.rounds + 1):
                say(f"{nodes} nodes, round {number} of {self.args.rounds}")
                for system in ("VaultDB", "etcd"):
                    self.round(system, nodes)

    # What is printed.

    def of(self, system, nodes, clients, what="leader"):
        """The way that was fastest, and its reports."""
        found = {key[4]: reports for key, reports in self.reports.items() if key[:4] == (system, nodes, clients, what)}
        way = max(found, key=lambda way: middle(found[way], "pairs_per_s"))
        return way, found[way]

    def comparison_row(self, nodes, clients, what):
        (_, ours), (way, theirs) = self.of("VaultDB", nodes, clients, what), self.of("etcd", nodes, clients, what)
        client_us = [f"{middle(reports, 'client_cpu_us_per_request'):.1f}" for reports in (ours, theirs)]
        return [
            str(nodes), str(clients),
            rate(ours), rate(theirs), ratio(ours, theirs),
            latency(ours), latency(theirs), way_text(way), " / ".join(client_us), failures(ours + theirs),
        ]

    def tables(self):
        head = [
            "nodes", "clients", "VaultDB/s", "etcd/s", "ratio (min–max)", "VaultDB p50 / p99 ms",
            "etcd p50 / p99 ms", "etcd over", "client µs VaultDB / etcd", "errors",
        ]
        lines = ["Puts to the leader:", ""]
        lines += table(head, [self.comparison_row(n, c, "leader") for n in self.args.nodes for c in CLIENTS])
        if LARGEST in self.args.nodes:
            lines += ["", f"Batches of {BATCH_PAIRS} pairs (`POST /key`; a transaction of etcd), in pairs a second:", ""]
            lines += table(head, [self.comparison_row(LARGEST, BATCH_CLIENTS, "batch")])
            lines += ["", "Puts to a follower, against those to the leader (VaultDB, five nodes):", ""]
            lines += table(
                ["clients", "leader/s", "follower/s", "leader / follower (min–max)",
                 "leader p50 / p99 ms", "follower p50 / p99 ms", "errors"],
                [self.follower_row(clients) for clients in CLIENTS],
            )
        lines += ["", "Memory of a node after these loads, the largest of all nodes and rounds, in MiB:", ""]
        lines += table(["nodes", "system", "resident at the end", "at the peak"], self.memory_rows())
        lines += ["", "Ways to drive etcd that were tried first, in one short run each:", ""]
        lines += table(
            ["nodes", "clients", "way", "puts/s", "client µs"],
            [[str(nodes), str(clients), way_text(way), f"{report['requests_per_s']:,.0f}",
              f"{report['client_cpu_us_per_request']:.1f}"] for nodes, clients, way, report in self.trials],
        )
        return lines

    def follower_row(self, clients):
        _, leader = self.of("VaultDB", LARGEST, clients)
        _, follower = self.of("VaultDB", LARGEST, clients, "follower")
        return [
            str(clients), rate(leader), rate(follower), ratio(leader, follower),
            latency(leader), latency(follower), failures(leader + follower),
        ]

    def memory_rows(self):
        rows = []
        for (system, nodes), rounds in sorted(self.memory.items(), key=lambda item: (item[0][1], item[0][0])):
            every = [node for nodes_of_round in rounds for node in nodes_of_round]
            rows.append([str(nodes), system, f"{max(now for now, _ in every):.0f}", f"{max(peak for _, peak in every):.0f}"])
        return rows


def parse():
    parser = argparse.ArgumentParser(prog="bench-compare", description="Compares VaultDB with etcd.")
    for name in ("vaultdb", "etcd", "etcd-load", "data"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each cell (default 3)")
    parser.add_argument("--seconds", type=float, help="length of each measurement (default 6, with --fast 1.5)")
    parser.add_argument("--warmup", type=float, help="load before it (default 1.5, with --fast 0.5)")
    parser.add_argument("--nodes", default="1,3,5", help="sizes of the clusters (default 1,3,5)")
    parser.add_argument("--fast", action="store_true", help="short runs: about 4 minutes in place of 15")
    parser.add_argument("--output", metavar="FILE", help="also write the result to this file")
    args = parser.parse_args()
    args.seconds = args.seconds or (1.5 if args.fast else 6.0)
    args.warmup = args.warmup or (0.5 if args.fast else 1.5)
    try:
        args.nodes = [int(nodes) for nodes in args.nodes.split(",")]
    except ValueError:
        parser.error("--nodes: numbers such as 1,3,5")
    if not all(1 <= nodes <= 7 for nodes in args.nodes):
        parser.error("--nodes: each is 1 to 7")
    if not (1 <= args.rounds <= 100 and 0.1 <= args.seconds <= 3600 and 0.1 <= args.warmup <= 600):
        parser.error("--rounds 1 to 100, --seconds 0.1 to 3600, --warmup 0.1 to 600")
    return args


def main():
    args = parse()
    os.makedirs(args.data, exist_ok=True)
    comparison = Comparison(args)
    lines = machine.describe(args.data)
    lines += [
        f"- {version(args.vaultdb, '--version')} against {version(args.etcd, '--version')}; nodes and load on "
        "this one machine, the other system not running",
        f"- {args.rounds} rounds in turn on fresh clusters, {args.seconds:g} s each after {args.warmup:g} s; medians; "
        "a ratio is of one round's pair; closed loop",
        "- 100,000 keys of 16 bytes, values of 100 bytes; both sync every write to disk, on the same file system",
    ]
    comparison.run()
    text = "\n".join([*lines, "", *comparison.tables()]) + "\n"
    print(text, end="")
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    clusters.run_script("bench-compare", main)
