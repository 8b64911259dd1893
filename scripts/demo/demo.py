"""Five nodes under a load are broken one way after another, heal themselves, and every acknowledged write is looked up at
the end. Started by scripts/demo.sh; docs/operations.md says how to read what it prints.

Exit code 0: no acknowledged write was lost, and everything healed. 1: not so. 2: usage.
"""

import argparse
import itertools
import random
import signal
import sys
import tempfile
import time

import api
import clusters
import frame
import history
import load
import machine
import steps
import verdict
from chorus import Chorus
from containers import Containers
from processes import Processes
from stage import Outcome, Stage
from view import View
from watch import Watch

CLIENTS = 16
RATE = 200
RATE_MAX = 2000
# Between the beginnings of two faults, unless the earlier one takes longer to heal.
INTERVAL_SECONDS = 20
CYCLES = 2
# With --fast: between the healing of one fault and the next.
FAST_PAUSE_SECONDS = 1.5
# The load runs this long before the first fault and after the last.
EDGE_SECONDS = 2.0
WHOLE_SECONDS_MAX = 60
MINUTES_MAX = 24 * 60
PLAIN_LINE_SECONDS = 10


class Demo:
    def __init__(self, args, directory):
        self.args = args
        self.directory = directory
        self.token = f"{random.getrandbits(48):012x}"
        self.watch = self.load = self.stage = None
        self.chorus = Chorus()
        # Unix time at which the cluster was there.
        self.formed = 0.0
        self.outcomes = []
        self.failures = []
        self.view = View(self.frame)

    def frame(self):
        return frame.lines(self.watch, self.load, self.stage) if self.load else []

    def plan(self):
        """(step, turn) in order; the turn counts how often that step was there before."""
        names = self.args.steps
        rounds = ((name, turn) for turn in itertools.count() for name in names)
        if self.args.minutes:
            count = max(1, round(self.args.minutes * 60 / INTERVAL_SECONDS))
        else:
            count = len(names) * (1 if self.args.fast else CYCLES)
        return list(itertools.islice(rounds, count))

    def note(self, node, text):
        self.view.say("runner", f"node{node}: {text}", "dim")

    def on_event(self, event):
        # How they formed a cluster is no part of the script.
        if event.time >= self.formed and (line := self.chorus.line(event)):
            self.view.say(f"node{event.node}", *line)

    def run(self):
        with self.view:
            runner = Containers if self.args.compose else Processes
            self.view.say("runner", f"starting five nodes as {runner.kind}", "head")
            with runner(self.args.binary, self.directory, self.note) as cluster:
                self.formed = time.time()
                self.tell_plain_story(cluster.ports)
                with Watch(cluster.ports, self.on_event) as self.watch, \
                        load.Load(cluster.ports, CLIENTS, self.args.rate, self.token) as self.load:
                    return self.break_and_judge(cluster)

    def tell_plain_story(self, ports):
        """Five voters; a write to one is read from each."""
        self.view.say("runner", f"five voters; HTTP on localhost, ports {', '.join(map(str, ports))}")
        written = api.call(ports[0], "POST", "/key", b'{"user1": "batman"}', seconds=clusters.START_SECONDS_MAX)
        if written is None or written[0] != 200:
            raise clusters.Failed(f"the first write: {written}")
        for node, port in enumerate(ports):
            read = api.call(port, "GET", "/key/user1", seconds=clusters.START_SECONDS_MAX)
            if read is None or api.parsed(read[1]) != {"user1": "batman"}:
                raise clusters.Failed(f"node{node} does not answer what was written to node0: {read}")
        self.view.say("service", "a write to node0 is read from each of the five", "good")

    def break_and_judge(self, cluster):
        stage = self.stage = Stage(cluster, self.watch, self.load, self.view, self.token)
        self.wait_whole(cluster)
        plan = self.plan()
        load_text = f"{CLIENTS} clients, {self.args.rate} writes a second over all nodes"
        self.view.say("load", f"{load_text}; {len(plan)} faults follow", "head")
        self.load.start()
        self.pause(EDGE_SECONDS)
        self.walk(stage, plan)
        self.pause(EDGE_SECONDS)
        self.load.stop()
        self.view.say("load", "ends; looking up every acknowledged write on every node", "head")
        self.end_faults(cluster)
        requests = self.load.requests()
        slots = history.slots(requests, self.load.begin, self.load.end)
        contents, failures = verdict.look_up(cluster.ports, requests + stage.probes, load.PREFIX, self.token)
        return verdict.Verdict(
            requests, stage.probes, slots, contents, self.outcomes, len(plan), self.failures + failures
        )

    def walk(self, stage, plan):
        began = time.monotonic()
        for number, (name, turn) in enumerate(plan):
            if number:
                due = began + number * INTERVAL_SECONDS - time.monotonic()
                self.pause(FAST_PAUSE_SECONDS if self.args.fast else max(FAST_PAUSE_SECONDS, due))
            stage.outcome = None
            try:
                steps.STEPS[name](stage, turn)
            except clusters.Failed as error:
                stage.outcome = stage.outcome or Outcome(f"step {name}", time.monotonic() - self.view.began)
                stage.outcome.failure = str(error)
                self.view.say("failed", str(error), "bad")
            self.outcomes.append(stage.outcome)
            if stage.outcome.failure:
                # A further fault would break more than five nodes promise to bear.
                return

    def pause(self, seconds):
        """Lets the load run; without a terminal a line now and then shows that it does."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            time.sleep(min(left, PLAIN_LINE_SECONDS))
            if not self.view.live and left > PLAIN_LINE_SECONDS:
                self.view.say("load", f"{sum(len(client.done) for client in self.load.clients):,} requests have ended", "dim")

    def wait_whole(self, cluster):
        def whole():
            if cluster.broken:
                raise clusters.Failed(cluster.broken)
            return self.watch.unwell() is None

        clusters.wait_until("the five nodes are healthy", WHOLE_SECONDS_MAX, whole)

    def end_faults(self, cluster):
        for port in cluster.ports:
            api.call(port, "DELETE", "/v1/faults")
        try:
            self.wait_whole(cluster)
        except clusters.Failed as error:
            self.failures.append(f"{error} at the end: {self.watch.unwell()}")


def step_names(text):
    names = text.split(",")
    for name in names:
        if name not in steps.STEPS:
            raise argparse.ArgumentTypeError(f'no step "{name}"; there are {", ".join(steps.STEPS)}')
    return names


def parse():
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.split("Started")[0])
    parser.add_argument("--binary", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--compose", action="store_true", help="as containers (scripts/demo.sh: where an engine runs)")
    parser.add_argument("--processes", action="store_true", help="as processes (elsewhere)")
    parser.add_argument("--fast", action="store_true", help="each fault once, without rests: under two minutes in place of five")
    parser.add_argument("--minutes", type=float, metavar="N", help=f"so long, with a fault every {INTERVAL_SECONDS} s")
    every = list(steps.STEPS)
    parser.add_argument("--steps", type=step_names, default=every, metavar="A,B", help=f"only these: {','.join(every)}")
    parser.add_argument("--rate", type=int, default=RATE, metavar="N", help=f"writes a second (default {RATE})")
    parser.add_argument("--json", metavar="FILE", help="also write the verdict to this file")
    args = parser.parse_args()
    if args.compose and args.processes:
        parser.error("--compose or --processes, not both")
    if args.minutes is not None and (args.fast or not 0 < args.minutes <= MINUTES_MAX):
        parser.error(f"--minutes: more than 0, up to {MINUTES_MAX}, and not with --fast")
    if not 1 <= args.rate <= RATE_MAX:
        parser.error(f"--rate: 1 to {RATE_MAX}")
    return args


def main():
    args = parse()
    with tempfile.TemporaryDirectory(prefix="vaultdb-demo.", ignore_cleanup_errors=True) as directory:
        described = machine.describe(directory)
        demo = Demo(args, directory)
        try:
            found = demo.run()
        except clusters.Failed as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
    print()
    for text, tone in found.lines():
        print(demo.view.painted(text, tone))
    if args.json:
        run_as = Containers.kind if args.compose else Processes.kind
        verdict.write_json(found, args.json, {"machine": described, "nodes_run_as": run_as})
    return 0 if found.passed else 1


def end_in_order(number, _):
    """Ends through the blocks that stop the nodes; a second signal does not cut them short."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # What is ignored from the start, as by nohup, stays so.
        if signal.getsignal(ending) != signal.SIG_IGN:
            signal.signal(ending, end_in_order)
    sys.exit(main())
