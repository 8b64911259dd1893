"""Two builds of VaultDB in turn, with the same load, on one machine: what a change costs or saves; prints Markdown.

Started by scripts/bench-against.sh. A cluster of each build stands all the time, and short loads take turns between them, so
that what the disk does for a while falls on both.
"""

import argparse
import os
import sys

import clusters
import loads
import machine
from figures import failures, latency, middle, rate, ratio, table

NODES = 5
# (operation, connections, flags)
LOADS = [
    ("put", 1, ()), ("put", 64, ()), ("put", 256, ()),
    ("get", 64, ("--consistency", "linearizable")), ("get", 64, ("--consistency", "stale")),
]
KEYS = 10_000
# Of the other cluster's ports.
SHIFT = 100


class Builds:
    def __init__(self, args):
        self.args = args
        # (build, load) -> a report for each round.
        self.reports = {}

    def run(self):
        directory = self.args.data
        with clusters.VaultDb(self.args.binary, NODES, os.path.join(directory, "this")) as this, \
                clusters.VaultDb(self.args.other, NODES, os.path.join(directory, "other"), shift=SHIFT) as other:
            for cluster in (this, other):
                endpoint = cluster.endpoint(cluster.wait_leader())
                loads.prefill([self.args.binary, "bench", "get", "--endpoints", endpoint, "--output", "json"], KEYS)
            for load in LOADS:
                for number in range(self.args.rounds):
                    both = [("this", this), ("other", other)]
                    for build, cluster in both if number % 2 == 0 else reversed(both):
                        self.measure(cluster, build, load)

    def measure(self, cluster, build, load):
        operation, clients, flags = load
        leader = cluster.wait_leader()
        before = sum(cluster.cpu_seconds())
        # The same generator loads both. Without a warm-up the processor time is of the requests that are counted.
        report = loads.vaultdb(
            self.args.binary, cluster.endpoint(leader), clients, (self.args.seconds, 0.0), operation, ("--keys", str(KEYS), *flags)
        )
        used = sum(cluster.cpu_seconds()) - before
        report["cpu_us_per_request"] = 1e6 * used / max(report["requests_per_s"] * self.args.seconds, 1)
        report["leader_moved"] = cluster.wait_leader() != leader
        self.reports.setdefault((build, *load), []).append(report)
        print(
            f"  {build}, {operation} {' '.join(flags)} at {clients}: {report['requests_per_s']:.0f}/s,"
            f" {report['cpu_us_per_request']:.0f} us", file=sys.stderr, flush=True,
        )

    def rows(self):
        for operation, clients, flags in LOADS:
            this, other = (self.reports[(build, operation, clients, flags)] for build in ("this", "other"))
            cpu = [f"{middle(each, 'cpu_us_per_request'):.1f}" for each in (this, other)]
            yield [
                f"{operation} {flags[-1] if flags else ''}".strip(), str(clients), rate(this), rate(other), ratio(this, other),
                latency(this), latency(other), *cpu, ratio(this, other, "cpu_us_per_request"), failures(this + other),
            ]


def main():
    parser = argparse.ArgumentParser(prog="bench-against", description=__doc__.split("Started")[0])
    for name in ("binary", "other", "data"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=20, help="of each load on each build (default 20)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of each measurement (default 1)")
    args = parser.parse_args()
    if not (1 <= args.rounds <= 100 and 0.1 <= args.seconds <= 3600):
        parser.error("--rounds 1 to 100, --seconds 0.1 to 3600")
    os.makedirs(args.data, exist_ok=True)
    builds = Builds(args)
    builds.run()
    head = [
        "load", "connections", "this, /s", "other, /s", "ratio", "this p50 / p99, ms", "other", "this, us of processor", "other",
        "ratio", "failures",
    ]
    lines = [
        *machine.describe(args.data),
        f"- {NODES} nodes and the load on this machine; {args.rounds} rounds in turn, {args.seconds:g} s each; medians; a ratio is of one"
        " round's pair: median, least and greatest; processor time is of all nodes, for one request",
        "", *table(head, builds.rows()),
    ]
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    clusters.run_script("bench-against", main)
