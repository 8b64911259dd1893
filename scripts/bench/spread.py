"""Five nodes, each with a small share of a processor of its own, standing for five hosts: what reading from all of them
brings over reading synchronously through the leader.

Started by scripts/bench-spread.sh. Informs one decision: whether reads should be spread over all nodes. The load
generator has no quota. Exits with 0 and one line where no quota can be set.
"""

import argparse
import contextlib
import json
import os
import statistics
import sys

import clusters
import figures
import loads
import machine
from quotas import Quotas, Unavailable

NODES = 5
KEYS = 10_000
# Name -> (shared rounds, level, over all nodes, what it is). Single reads go through the leader.
CELLS = {
    "A": (False, "linearizable", False, "linearizable at the leader, a quorum round for each read"),
    "B": (True, "linearizable", False, "linearizable at the leader, rounds shared"),
    "C": (True, "linearizable", True, "linearizable over all nodes, rounds shared"),
    "D": (True, "stale", True, "stale over all nodes"),
    "E": (True, "stale", False, "stale at the leader"),
}
RATIOS = [
    ("C / A", "linearizable over all nodes against synchronous reads: the headline"),
    ("D / A", "stale over all nodes against synchronous reads"),
    ("B / A", "of C / A: from sharing the rounds"),
    ("C / B", "of C / A: from spreading over five nodes"),
    ("D / E", "from spreading over five nodes, where no round is needed"),
    ("D / C", "what a stale read saves over a linearizable one"),
]
# The seed's headline.
AIM = 15
UNSHARED = {"VAULTDB_READ_SHARING": "false"}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Spread:
    def __init__(self, args, quotas):
        self.args = args
        self.quotas = quotas
        self.reports = {}

    @contextlib.contextmanager
    def hosts(self, settings):
        """Five nodes that were filled, each in its group; the quotas hold from then on."""
        directory = os.path.join(self.args.data, "nodes")
        with clusters.VaultDb(self.args.vaultdb, NODES, directory, settings) as cluster:
            groups = [self.quotas.group(f"node{node}") for node in range(NODES)]
            try:
                for group, process in zip(groups, cluster.processes):
                    group.take(process.pid)
                endpoint = cluster.endpoint(cluster.wait_leader())
                loads.prefill([self.args.vaultdb, "bench", "get", "--output", "json", "--endpoints", endpoint], KEYS)
                cluster.wait_idle()
                for group in groups:
                    group.limit(self.args.share)
                yield cluster, groups
            finally:
                # A group can only go once its process has.
                cluster.stop()
                for group in groups:
                    group.remove()
                    self.quotas.groups.remove(group)

    def measure(self, name, cluster, groups):
        _, level, everywhere, _ = CELLS[name]
        leader = cluster.wait_leader()
        nodes = range(NODES) if everywhere else [leader]
        endpoints = ",".join(cluster.endpoint(node) for node in nodes)
        time = (self.args.seconds, self.args.warmup)
        cpu, throttled = cluster.cpu_seconds(), [group.throttled_periods() for group in groups]
        report = loads.vaultdb(
            self.args.vaultdb, endpoints, self.args.clients, time, "get",
            ["--consistency", level, "--keys", str(KEYS), "--verify"],
        )
        report["leader_moved"] = cluster.wait_leader() != leader
        report["node_cpu_share"] = [(b - a) / sum(time) for a, b in zip(cpu, cluster.cpu_seconds())]
        report["leader_cpu_share"] = report["node_cpu_share"][leader]
        report["throttled_share"] = [
            (group.throttled_periods()[0] - was[0]) / max(group.throttled_periods()[1] - was[1], 1)
            for group, was in zip(groups, throttled)
        ]
        report["leader_throttled"] = report["throttled_share"][leader]
        report["generator_busy"] = report["client_cpu_us_per_request"] * report["requests_per_s"] / 1e6
        self.reports.setdefault(name, []).append(report)
        say(f"  {name} {CELLS[name][3]}: {report['requests_per_s']:.0f}/s, p50 {report['latency_us_p50']} µs")

    def run(self):
        for number in range(1, self.args.rounds + 1):
            say(f"round {number} of {self.args.rounds}")
            for sharing, settings in ((False, UNSHARED), (True, {})):
                with self.hosts(settings) as (cluster, groups):
                    for name in CELLS:
                        if CELLS[name][0] == sharing:
                            self.measure(name, cluster, groups)

    def rows(self):
        for name, reports in self.reports.items():
            others = [
                statistics.mean(sorted(report["node_cpu_share"])[: NODES - 1]) for report in reports
            ]
            yield [
                name, CELLS[name][3], figures.rate(reports),
                f"{figures.middle(reports, 'latency_us_p50') / 1000:.2f} / {figures.middle(reports, 'latency_us_p99') / 1000:.2f}",
                f"{100 * figures.middle(reports, 'leader_cpu_share'):.1f} / {100 * statistics.median(others):.1f} %",
                f"{100 * figures.middle(reports, 'leader_throttled'):.0f} %",
                f"{100 * figures.middle(reports, 'generator_busy'):.0f} %",
                figures.failures(reports),
            ]

    def tables(self):
        lines = figures.table(
            ["", "reads", "reads/s", "p50 / p99 ms", "processor used: leader / mean of the other four", "leader's quota used up",
             "client busy", "errors"],
            self.rows(),
        )
        lines.append("")
        rows = []
        for pair, what in RATIOS:
            above, below = pair.split(" / ")
            rows.append([pair, figures.ratio(self.reports[above], self.reports[below]), what])
        lines += figures.table(["ratio", "median (min–max)", "what it says"], rows)
        headline = statistics.median(figures.ratios(self.reports["C"], self.reports["A"]))
        lines += ["", f"Aim: C / A at least {AIM}: {'met' if headline >= AIM else 'missed'} ({headline:.1f})."]
        return lines


def parse():
    parser = argparse.ArgumentParser(prog="bench-spread", description="Reads over five nodes with a quota each.")
    for name in ("vaultdb", "data"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="rounds of everything (default 5, with --fast 2)")
    parser.add_argument("--seconds", type=float, help="length of each measurement (default 4, with --fast 1.5)")
    parser.add_argument("--warmup", type=float, default=1.0, help="load before it (default 1)")
    parser.add_argument("--clients", type=int, default=100, help="connections, spread over the nodes (default 100)")
    parser.add_argument("--share", type=float, default=0.1, help="of one processor for each node (default 0.1)")
    parser.add_argument("--fast", action="store_true", help="short runs: one minute in place of four")
    parser.add_argument("--output", metavar="FILE", help="also write the tables to this file")
    parser.add_argument("--json", metavar="FILE", help="also write every report to this file")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.fast else 5)
    args.seconds = args.seconds or (1.5 if args.fast else 4.0)
    if not (1 <= args.rounds <= 100 and 0.1 <= args.seconds <= 600 and 0.1 <= args.warmup <= 600):
        parser.error("--rounds 1 to 100, --seconds 0.1 to 600, --warmup 0.1 to 600")
    if not (NODES <= args.clients <= 1000 and 0.1 <= args.share <= 8):
        parser.error(f"--clients {NODES} to 1000, --share 0.1 to 8")
    return args


def main():
    args = parse()
    os.makedirs(args.data, exist_ok=True)
    try:
        with Quotas() as quotas:
            spread = Spread(args, quotas)
            lines = machine.describe(args.data)
            lines += [
                f"- {figures.version(args.vaultdb, '--version')}; {NODES} nodes, each limited to {args.share:g} of a processor "
                f"({quotas}); the load on the same machine, without a limit, {args.clients} clients, closed loop",
                f"- {args.rounds} rounds, {args.seconds:g} s each after {args.warmup:g} s; medians; a ratio is of two figures "
                f"of one round; {KEYS:,} keys, values of 100 bytes, every value checked",
            ]
            spread.run()
    except Unavailable as reason:
        print(f"bench-spread: skipped: {reason}")
        return 0
    text = "\n".join([*lines, "", *spread.tables()]) + "\n"
    print(text, end="")
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(text)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"machine": lines, "cells": spread.reports}, file, indent=1)
    return 0


if __name__ == "__main__":
    clusters.run_script("bench-spread", main)
