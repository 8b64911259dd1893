"""Reads of VaultDB at each level, beside etcd and beside an actix-web server that does nothing else.

Started by scripts/bench-reads.sh, which builds what it needs. Informs these decisions: which level to offer as the
default, whether a follower may answer, and whether the cache is worth its memory. In each round everything is measured
once, one after the other, so that a drift of the machine falls on all; a ratio is of two figures of one round.
Every read's value is checked by the generator; one that is wrong counts as an error.
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

NODES = 5
CLIENTS = [1, 64, 256]
LEVELS = ["linearizable", "lease", "stale"]
ETCD_LEVELS = ["linearizable", "serializable"]
ROLES = ["leader", "follower"]
KEYS = 100_000
KEYS_MANY = 1_000_000
VALUE_BYTES = 100
# The cells of one node that compare sizes and caches.
SOLO_CLIENTS = [1, 64]
ZIPF = "0.99"
# Fills the caches of a node before the first round: enough reads to touch nearly all of 100,000 keys.
SOLO_WARM_SECONDS = 5.0
# As in compare.py: tried before the rounds; those nearly as fast as the fastest run in every round.
WAYS = {1: [1], 64: [1, 4, 8], 256: [1, 4, 16]}
CONTENDERS_MAX = 2
CONTENDER_SHARE_MIN = 0.85
# Above this share of a processor the generator itself may be what limits.
GENERATOR_BUSY_MAX = 0.9
# hraftd's local reads on five nodes, measured beforehand on another machine, by clients.
HRAFTD = {64: 76_670, 256: 84_726}


def say(text):
    print(text, file=sys.stderr, flush=True)


class Reads:
    def __init__(self, args):
        self.args = args
        self.time = (args.seconds, args.warmup)
        # A key that names what was measured -> one report for each round.
        self.reports = {}
        # (level, clients) -> how etcd is driven.
        self.ways = {}
        self.trials = []
        # As many as a node has.
        self.workers = max(1, len(os.sched_getaffinity(0)) // 2)

    # Clusters.

    def vaultdb(self, name, nodes, settings=None, shift=0):
        return clusters.VaultDb(self.args.vaultdb, nodes, os.path.join(self.args.data, name), settings, shift)

    def etcd(self):
        return clusters.Etcd(self.args.etcd, NODES, os.path.join(self.args.data, "etcd"))

    def fill(self, cluster, keys):
        endpoint = cluster.endpoint(cluster.wait_leader())
        if cluster.name == "etcd":
            reader = [self.args.etcd_load, "get", "--endpoint", endpoint]
        else:
            reader = [self.args.vaultdb, "bench", "get", "--output", "json", "--endpoints", endpoint]
        loads.prefill(reader, keys)
        cluster.wait_idle()

    # Measurements.

    def measure(self, key, cluster, clients, load, role="leader", time=None):
        leader = cluster.wait_leader()
        node = (leader + 1) % cluster.nodes if role == "follower" else leader
        cpu = cluster.cpu_seconds()
        report = load(cluster.endpoint(node), clients, time or self.time)
        used = sum(cluster.cpu_seconds()) - sum(cpu)
        report["leader_moved"] = cluster.wait_leader() != leader
        # The warm-up is load as well, at about the same rate.
        report["server_cpu_us_per_request"] = 1e6 * used / max(report["requests_per_s"] * sum(time or self.time), 1)
        report["generator_busy"] = report["client_cpu_us_per_request"] * report["requests_per_s"] / 1e6
        self.reports.setdefault(key, []).append(report)
        say(
            f"  {' '.join(str(part) for part in key)}: {report['requests_per_s']:.0f}/s, "
            f"p50 {report['latency_us_p50']} µs, p99 {report['latency_us_p99']} µs"
        )
        return report

    def get(self, level, keys=KEYS, *flags):
        checked = ["--consistency", level, "--keys", str(keys), "--verify", *flags]
        return lambda endpoint, clients, time: loads.vaultdb(self.args.vaultdb, endpoint, clients, time, "get", checked)

    def etcd_get(self, level, way):
        flags = ["--consistency", level, "--keys", str(KEYS)]
        return lambda endpoint, clients, time: loads.etcd(self.args.etcd_load, endpoint, clients, time, way, "get", flags)

    def hello_get(self):
        return lambda endpoint, clients, time: loads.vaultdb(self.args.vaultdb, endpoint, clients, time, "get")

    def try_ways(self):
        time = (self.args.seconds / 2, self.args.warmup / 2)
        with self.etcd() as cluster:
            self.fill(cluster, KEYS)
            for level in ETCD_LEVELS:
                for clients in CLIENTS:
                    rates = {}
                    for way in WAYS[clients]:
                        report = self.etcd_get(level, way)(cluster.endpoint(cluster.wait_leader()), clients, time)
                        rates[way] = report["requests_per_s"]
                        self.trials.append((level, clients, way, report))
                        say(f"  etcd {level}, {clients} clients, {figures.way_text(way)}: {rates[way]:.0f}/s")
                    ranked = sorted(rates, key=rates.get, reverse=True)
                    fast = [way for way in ranked if rates[way] >= CONTENDER_SHARE_MIN * rates[ranked[0]]]
                    self.ways[(level, clients)] = fast[:CONTENDERS_MAX]

    def five_nodes(self):
        with self.vaultdb("five", NODES) as cluster:
            self.fill(cluster, KEYS)
            for clients in CLIENTS:
                for level in self.args.levels:
                    for role in ROLES:
                        self.measure(("VaultDB", level, role, clients), cluster, clients, self.get(level), role)

    def hello(self):
        directory = os.path.join(self.args.data, "hello")
        with clusters.Hello(self.args.hello, directory, self.workers, VALUE_BYTES) as cluster:
            for clients in CLIENTS:
                self.measure(("hello-world", clients), cluster, clients, self.hello_get())

    def etcd_five_nodes(self):
        with self.etcd() as cluster:
            self.fill(cluster, KEYS)
            for clients in CLIENTS:
                for level in ETCD_LEVELS:
                    for role in ROLES:
                        for way in self.ways[(level, clients)]:
                            key = ("etcd", level, role, clients, way)
                            self.measure(key, cluster, clients, self.etcd_get(level, way), role)

    def one_node(self):
        with self.vaultdb("one", 1) as cluster:
            self.fill(cluster, KEYS)
            for clients in CLIENTS:
                for level in self.args.levels:
                    self.measure(("one node", level, clients), cluster, clients, self.get(level))

    @contextlib.contextmanager
    def solo_nodes(self):
        """One node for each number of keys, with its cache and without: all stand, one at a time has load."""
        with contextlib.ExitStack() as stack:
            solo = {}
            for shift, (keys, cached) in enumerate([(k, c) for k in (KEYS, KEYS_MANY) for c in (True, False)]):
                settings = {} if cached else {"VAULTDB_CACHE_BYTES": "0"}
                node = self.vaultdb(f"solo{shift}", 1, settings, 100 * (shift + 1))
                solo[(keys, cached)] = stack.enter_context(node)
                say(f"writing {keys} keys into one node with{'' if cached else 'out'} its cache")
                self.fill(node, keys)
                self.get("stale", keys)(node.endpoint(0), 64, (SOLO_WARM_SECONDS, 0.1))
            yield solo

    def solo(self, nodes):
        for clients in SOLO_CLIENTS:
            for (keys, cached), node in nodes.items():
                for draw, flags in (("uniform", []), ("zipf", ["--zipf", ZIPF])):
                    before = node_cache(node)
                    report = self.measure(
                        ("solo", "stale", keys, cached, draw, clients), node, clients, self.get("stale", keys, *flags)
                    )
                    hits, misses = (b - a for a, b in zip(before, node_cache(node)))
                    report["hit_share"] = hits / max(hits + misses, 1)
                if cached:
                    level = "linearizable"
                    self.measure(("solo", level, keys, cached, "uniform", clients), node, clients, self.get(level, keys))

    def run(self):
        say("ways to drive etcd")
        self.try_ways()
        with self.solo_nodes() as solo:
            for number in range(1, self.args.rounds + 1):
                say(f"round {number} of {self.args.rounds}")
                for part in (self.five_nodes, self.hello, self.etcd_five_nodes, self.one_node, lambda: self.solo(solo)):
                    part()

    # What is printed.

    def of_etcd(self, level, role, clients):
        """The way that was fastest, and its reports."""
        found = {way: self.reports[("etcd", level, role, clients, way)] for way in self.ways[(level, clients)]}
        way = max(found, key=lambda way: figures.middle(found[way], "requests_per_s"))
        return way, found[way]

    def five_rows(self):
        rows = []
        for clients in CLIENTS:
            ceiling = self.reports[("hello-world", clients)]
            for level in self.args.levels:
                for role in ROLES:
                    ours = self.reports[("VaultDB", level, role, clients)]
                    _, theirs = self.of_etcd("serializable" if level == "stale" else "linearizable", role, clients)
                    cells = [figures.ratio(ours, theirs), figures.ratio(ours, ceiling)]
                    rows.append([str(clients), "VaultDB", level, role, *speed(ours), *cells, *price(ours)])
            for level in ETCD_LEVELS:
                for role in ROLES:
                    way, theirs = self.of_etcd(level, role, clients)
                    name = f"etcd, {figures.way_text(way)}"
                    rows.append([str(clients), name, level, role, *speed(theirs), "1", figures.ratio(theirs, ceiling), *price(theirs)])
            rows.append([str(clients), "hello-world", "", "", *speed(ceiling), "", "1", *price(ceiling)])
        return rows

    def one_rows(self):
        for clients in CLIENTS:
            for level in self.args.levels:
                one, five = self.reports[("one node", level, clients)], self.reports[("VaultDB", level, "leader", clients)]
                yield [
                    str(clients), level, figures.rate(one), figures.rate(five), figures.ratio(five, one),
                    micros(one), micros(five), figures.failures(one + five),
                ]

    def cache_rows(self):
        for keys in (KEYS, KEYS_MANY):
            for draw in ("uniform", "zipf"):
                for clients in SOLO_CLIENTS:
                    cached, plain = (self.reports[("solo", "stale", keys, c, draw, clients)] for c in (True, False))
                    yield [
                        f"{keys:,}", draw if draw == "uniform" else f"Zipf {ZIPF}", str(clients),
                        f"{100 * figures.middle(cached, 'hit_share'):.0f} %",
                        figures.rate(cached), figures.rate(plain), figures.ratio(cached, plain), micros(cached), micros(plain),
                        f"{figures.middle(cached, 'server_cpu_us_per_request'):.1f} / "
                        f"{figures.middle(plain, 'server_cpu_us_per_request'):.1f}",
                        figures.failures(cached + plain),
                    ]

    def size_rows(self):
        for level in ("linearizable", "stale"):
            for clients in SOLO_CLIENTS:
                few, many = (self.reports[("solo", level, keys, True, "uniform", clients)] for keys in (KEYS, KEYS_MANY))
                yield [
                    level, str(clients), figures.rate(few), figures.rate(many), figures.ratio(few, many),
                    micros(few), micros(many), figures.ratio(many, few, "latency_us_p50"),
                    figures.ratio(many, few, "server_cpu_us_per_request"), figures.failures(few + many),
                ]

    def aims(self):
        """Rows of what was aimed at, as far as these levels were measured."""
        levels, get = self.args.levels, self.reports
        if "linearizable" in levels:
            for role in ROLES:
                each = figures.ratios(get[("VaultDB", "linearizable", role, 64)], self.of_etcd("linearizable", role, 64)[1])
                yield aim(f"64 clients, {role}: linearizable at least 3 × etcd's", figures.spread(each), statistics.median(each) >= 3)
        if "stale" in levels:
            for clients in (64, 256):
                for role in ROLES:
                    ours = get[("VaultDB", "stale", role, clients)]
                    each = figures.ratios(ours, get[("hello-world", clients)])
                    yield aim(f"{clients} clients, {role}: stale at least 0.75 × the ceiling", figures.spread(each), statistics.median(each) >= 0.75)
                    yield aim(
                        f"{clients} clients, {role}: stale above {HRAFTD[clients]:,}/s (hraftd, measured beforehand on another machine)",
                        f"{figures.rate(ours)}/s", figures.middle(ours, "requests_per_s") > HRAFTD[clients],
                    )
        if "linearizable" in levels and "stale" in levels:
            for role in ROLES:
                each = figures.ratios(*(get[("VaultDB", level, role, 256)] for level in ("linearizable", "stale")))
                yield aim(f"256 clients, {role}: linearizable at least 0.8 × stale", figures.spread(each), statistics.median(each) >= 0.8)
        for level, most in (("linearizable", 250), ("stale", 100)):
            if level in levels:
                median = figures.middle(get[("VaultDB", level, "leader", 1)], "latency_us_p50")
                yield aim(f"1 client, leader: {level} p50 at most {most / 1000:g} ms", f"{median / 1000:.3f} ms", median <= most)
        for level in ("linearizable", "stale"):
            for clients in SOLO_CLIENTS:
                many, few = (get[("solo", level, keys, True, "uniform", clients)] for keys in (KEYS_MANY, KEYS))
                each = figures.ratios(few, many)
                yield aim(
                    f"{clients} client(s): {level} among {KEYS_MANY:,} keys costs at most 1.2 × what it costs among {KEYS:,}",
                    figures.spread(each), statistics.median(each) <= 1.2,
                )

    def tables(self):
        lines = ["Five nodes, 100,000 keys, all clients at one node:", ""]
        lines += figures.table(
            ["clients", "system", "level", "at the", "reads/s", "p50 / p99 µs", "× etcd (min–max)", "× hello-world (min–max)",
             "servers µs", "client µs", "client busy", "errors"],
            self.five_rows(),
        )
        lines += ["", "One node against five, at the leader:", ""]
        lines += figures.table(
            ["clients", "level", "one/s", "five/s", "five / one (min–max)", "one p50 / p99 µs", "five p50 / p99 µs", "errors"],
            self.one_rows(),
        )
        lines += ["", "One node with its cache (64 MiB) and without, stale:", ""]
        lines += figures.table(
            ["keys", "drawn", "clients", "hits", "with/s", "without/s", "with / without (min–max)", "with p50 / p99 µs",
             "without p50 / p99 µs", "server µs with / without", "errors"],
            self.cache_rows(),
        )
        lines += ["", f"One node with {KEYS:,} and with {KEYS_MANY:,} keys, uniform; a cost above 1 means that many keys cost more:", ""]
        lines += figures.table(
            ["level", "clients", f"{KEYS:,}: reads/s", f"{KEYS_MANY:,}: reads/s", "cost in rate (min–max)",
             f"{KEYS:,}: p50 / p99 µs", f"{KEYS_MANY:,}: p50 / p99 µs", "cost in p50 (min–max)", "cost in processor (min–max)", "errors"],
            self.size_rows(),
        )
        lines += ["", "What is aimed at:", "", *figures.table(["aim", "reached", ""], self.aims())]
        lines += ["", "Ways to drive etcd that were tried first, in one short run each:", ""]
        lines += figures.table(
            ["level", "clients", "way", "reads/s", "client µs"],
            [[level, str(clients), figures.way_text(way), f"{report['requests_per_s']:,.0f}",
              f"{report['client_cpu_us_per_request']:.1f}"] for level, clients, way, report in self.trials],
        )
        return lines


def node_cache(node):
    """Hits and misses of the only node's cache so far."""
    status = clusters.wait_until("the node's status", clusters.ASK_SECONDS_MAX, lambda: clusters.ask(node.url(0, "/status")))
    cache = status["store"]["cache"]
    return cache["hits"], cache["misses"]


def micros(reports):
    return f"{figures.middle(reports, 'latency_us_p50'):.0f} / {figures.middle(reports, 'latency_us_p99'):.0f}"


def speed(reports):
    return [figures.rate(reports), micros(reports)]


def price(reports):
    busy = figures.middle(reports, "generator_busy")
    return [
        f"{figures.middle(reports, 'server_cpu_us_per_request'):.1f}",
        f"{figures.middle(reports, 'client_cpu_us_per_request'):.1f}",
        f"{100 * busy:.0f} %{' (!)' if busy > GENERATOR_BUSY_MAX else ''}",
        figures.failures(reports),
    ]


def aim(what, reached, met):
    return [what, reached, "met" if met else "missed"]


def parse():
    parser = argparse.ArgumentParser(prog="bench-reads", description="Measures reads at each level, beside etcd.")
    for name in ("vaultdb", "hello", "etcd", "etcd-load", "data"):
        parser.add_argument(f"--{name}", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, help="rounds of everything (default 3, with --fast 2)")
    parser.add_argument("--seconds", type=float, help="length of each measurement (default 2, with --fast 0.5)")
    parser.add_argument("--warmup", type=float, help="load before it (default 0.5, with --fast 0.2)")
    parser.add_argument("--levels", default=",".join(LEVELS), help=f"levels to measure (default {','.join(LEVELS)})")
    parser.add_argument("--fast", action="store_true", help="short runs: about 4 minutes in place of 15")
    parser.add_argument("--output", metavar="FILE", help="also write the tables to this file")
    parser.add_argument("--json", metavar="FILE", help="also write every report to this file")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.fast else 3)
    args.seconds = args.seconds or (0.5 if args.fast else 2.0)
    args.warmup = args.warmup or (0.2 if args.fast else 0.5)
    args.levels = args.levels.split(",")
    if not args.levels or not set(args.levels) <= set(LEVELS):
        parser.error(f"--levels: some of {','.join(LEVELS)}")
    if not (1 <= args.rounds <= 100 and 0.1 <= args.seconds <= 600 and 0.1 <= args.warmup <= 600):
        parser.error("--rounds 1 to 100, --seconds 0.1 to 600, --warmup 0.1 to 600")
    return args


def main():
    args = parse()
    os.makedirs(args.data, exist_ok=True)
    reads = Reads(args)
    lines = machine.describe(args.data)
    lines += [
        f"- {figures.version(args.vaultdb, '--version')} against {figures.version(args.etcd, '--version')}; nodes and load "
        "on this one machine; five nodes of one system at a time",
        f"- {args.rounds} rounds, {args.seconds:g} s each after {args.warmup:g} s; medians; a ratio is of two figures of one "
        "round; closed loop",
        f"- keys of 16 bytes, values of {VALUE_BYTES} bytes, every value checked; the hello-world is actix-web with "
        f"{reads.workers} worker(s), as many as a node has, and a body of {VALUE_BYTES} bytes",
        "- servers µs: processor time of all nodes for each read; client µs: that of the generator, which has one thread: "
        f"(!) marks where it is busy for more than {GENERATOR_BUSY_MAX:.0%} of the time",
    ]
    reads.run()
    text = "\n".join([*lines, "", *reads.tables()]) + "\n"
    print(text, end="")
    if args.output:
        with open(args.output, "w", encoding="utf-8") as file:
            file.write(text)
    if args.json:
        cells = [{"cell": list(key), "rounds": rounds} for key, rounds in reads.reports.items()]
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"machine": lines, "cells": cells}, file, indent=1)
    return 0


if __name__ == "__main__":
    clusters.run_script("bench-reads", main)
