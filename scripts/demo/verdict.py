"""The end: every acknowledged write is looked up on every node, and the figures are put into words."""

import http.client
import json
import time
from dataclasses import dataclass, field

import api
import history
from view import seconds

# Longest that a node may take to list everything.
LIST_SECONDS_MAX = 60
SERVED_PERCENT_AIM = 99.9
NAMES_SHOWN_MAX = 5


@dataclass
class Verdict:
    # Of the load.
    requests: list
    # Written beside the load; looked up, too, but no measure of the service.
    probes: list
    slots: history.Slots
    # Of each node what it holds; None where it could not be asked, with the reason in `failures`.
    contents: list
    outcomes: list
    steps_planned: int
    failures: list = field(default_factory=list)

    def count(self, state):
        return sum(request.state == state for request in [*self.requests, *self.probes])

    @property
    def lost(self):
        return sum(len(found.lost) for found in self.contents if found)

    @property
    def served_percent(self):
        return 100 * history.served(self.requests) / len(self.requests) if self.requests else 0.0

    @property
    def available_percent(self):
        return 100 * self.slots.covered / self.slots.total if self.slots.total else 0.0

    @property
    def agreed(self):
        """Whether the same of the unknown writes took effect on every node."""
        effective = [found.effective for found in self.contents if found]
        return all(each == effective[0] for each in effective)

    @property
    def slowest(self):
        done = [outcome for outcome in self.outcomes if outcome.recovery is not None]
        return max(done, key=lambda outcome: outcome.recovery, default=None)

    def reasons(self):
        """Why it did not pass; empty when it did."""
        found = list(self.failures)
        for node, each in enumerate(self.contents):
            if each is not None:
                for what, keys in (("lost", each.lost), ("wrong", each.wrong), ("refused, yet there", each.ghosts)):
                    if keys:
                        found.append(f"node{node}: {len(keys)} {what}: {', '.join(sorted(keys)[:NAMES_SHOWN_MAX])}")
        if not self.count(history.ACKNOWLEDGED):
            found.append("no write was acknowledged")
        if not self.agreed:
            found.append("the nodes do not hold the same writes")
        found += [f"{outcome.title}: {outcome.failure}" for outcome in self.outcomes if outcome.failure]
        if len(self.outcomes) < self.steps_planned:
            found.append(f"{self.steps_planned - len(self.outcomes)} steps of the script did not run")
        return found

    @property
    def passed(self):
        return not self.reasons()

    def table(self):
        rows = [("fault", "detected", "back", "whole", "no writes for", "healed by")]
        for each in self.outcomes:
            by = each.failure or each.healed_by
            rows.append((each.title, seconds(each.detected), seconds(each.back), seconds(each.whole), seconds(each.gap), by))
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for row in rows:
            cells = [row[0].ljust(widths[0])] + [row[column].rjust(widths[column]) for column in range(1, 5)]
            yield "  ".join([*cells, row[5]]).rstrip()

    def lines(self):
        """(text, tone) of each line."""
        yield from ((text, "head" if number == 0 else "plain") for number, text in enumerate(self.table()))
        yield "", "plain"
        acknowledged, unknown = self.count(history.ACKNOWLEDGED), self.count(history.UNKNOWN)
        asked = sum(found is not None for found in self.contents)
        yield (
            f"acknowledged   {acknowledged:,} writes, each looked up on {asked} nodes: {self.lost or 'none'} lost",
            "bad" if self.lost else "good",
        )
        effective = next((len(found.effective) for found in self.contents if found), 0)
        refused = self.count(history.REFUSED)
        yield f"not so         {unknown:,} with an unknown outcome ({effective} took effect), {refused:,} refused", "plain"
        met = self.served_percent >= SERVED_PERCENT_AIM
        yield (
            f"requests       {self.served_percent:.3f} % of {len(self.requests):,} acknowledged within"
            f" {history.SERVED_SECONDS_MAX:.0f} s, repeats included (aim {SERVED_PERCENT_AIM} %{'' if met else ': missed'})",
            "good" if met else "warn",
        )
        yield (
            f"availability   {self.available_percent:.2f} % of {self.slots.total:,} slots of 100 ms have an acknowledged write;"
            f" the longest gap is {seconds(self.slots.gap)}", "plain",
        )
        if self.slowest:
            yield f"slowest        recovery: {seconds(self.slowest.recovery)} ({self.slowest.title})", "plain"
        if actors := [outcome for outcome in self.outcomes if outcome.rebuilt is not None]:
            noticed, rebuilt = max(each.detected for each in actors), max(each.rebuilt for each in actors)
            yield (
                f"actors         {len(actors)} panicked or hung: detected within {seconds(noticed)}, another in place"
                f" {1000 * rebuilt:.0f} ms later (the slowest of each)", "plain",
            )
        yield "", "plain"
        reasons = self.reasons()
        for reason in reasons:
            yield f"failed: {reason}", "bad"
        if not reasons:
            healed = "everything healed" if self.outcomes else "nothing was broken"
            yield f"passed: no acknowledged write was lost, {healed}", "good"

    def to_json(self):
        return {
            "passed": self.passed, "reasons": self.reasons(), "requests": len(self.requests),
            "acknowledged": self.count(history.ACKNOWLEDGED), "unknown": self.count(history.UNKNOWN),
            "refused": self.count(history.REFUSED), "lost": self.lost, "nodes_checked": sum(map(bool, self.contents)),
            "served_within_2_s_percent": self.served_percent, "slots_100_ms": self.slots.total,
            "slots_with_acknowledged_write": self.slots.covered, "available_percent": self.available_percent,
            "longest_gap_s": self.slots.gap, "slowest_recovery_s": self.slowest.recovery if self.slowest else None,
            "slowest_recovery_of": self.slowest.title if self.slowest else None,
            "steps": [
                {"title": each.title, "at_s": each.at, "lasts_s": each.lasts, "detected_s": each.detected, "noticed": each.noticed,
                 "actor_rebuilt_s": each.rebuilt,
                 "back_s": each.back, "whole_s": each.whole, "recovery_s": each.recovery, "longest_gap_s": each.gap,
                 "healed_by": each.healed_by, "failure": each.failure}
                for each in self.outcomes
            ],
        }


def look_up(ports, requests, prefix, token):
    """What each node's own store holds, by a read that waits until it has applied all that was acknowledged: the contents, and
    why some could not be had."""
    contents, failures = [], []
    for node, port in enumerate(ports):
        try:
            revision = read_barrier(port)
            query = f"consistency=stale&min_revision={revision}&timeout={LIST_SECONDS_MAX}s"
            items = api.listing(port, prefix, query, LIST_SECONDS_MAX)
            contents.append(history.check(requests, items, token))
        except (OSError, http.client.HTTPException, ValueError) as error:
            contents.append(None)
            failures.append(f"node{node} could not be asked for its writes: {error}")
    return contents, failures


def read_barrier(port):
    """The revision of a linearizable read: at least that of every write acknowledged before."""
    once = api.connection(port, LIST_SECONDS_MAX)
    try:
        once.request("GET", "/v1/kv?limit=1&timeout=10s")
        answer = once.getresponse()
        answer.read()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status} for a linearizable read")
        return int(answer.headers["Vault-Revision"])
    finally:
        once.close()


def write_json(verdict, path, more):
    with open(path, "w", encoding="utf-8") as file:
        json.dump({**more, "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **verdict.to_json()}, file, indent=1)
        file.write("\n")
