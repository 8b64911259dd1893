"""What a step of the script works with: injects a fault, waits until it is detected and until it is healed, keeps the times.

All waits have limits; a step that exceeds one is a step that failed, and no further fault follows it.
"""

import json
import time
from dataclasses import dataclass, field

import api
import clusters
import history
import load

DETECT_SECONDS_MAX = 30.0
BACK_SECONDS_MAX = 60.0
HEAL_SECONDS_MAX = 90.0
LOOK_SECONDS = 0.02
PROBE_SECONDS = 0.5
# Kinds of events that say that something was noticed, and what was done about it.
NOTICED = {
    "degraded", "panicked", "hung", "failed", "escalated", "quarantined", "leader_changed", "peer_unreachable", "restarted",
}
HEALING = {"restarted", "rebuilt"}
FAILED = {"panicked", "hung"}


@dataclass
class Outcome:
    """One step; times are in seconds from the injection."""

    title: str
    # When it was injected, since the demo began.
    at: float
    # How long the fault lasts by intention; what it takes beyond that is the recovery.
    lasts: float = 0.0
    detected: float | None = None
    noticed: str = ""
    # From the event that tells of an actor's failure to the one that tells of its successor, by the node's clock.
    rebuilt: float | None = None
    # The broken part serves again.
    back: float | None = None
    # All five nodes are healthy voters that have caught up.
    whole: float | None = None
    healed_by: str = ""
    # Longest time without an acknowledged write, from the injection until the cluster is whole.
    gap: float | None = None
    failure: str | None = None
    notes: list = field(default_factory=list)

    @property
    def recovery(self):
        if self.whole is None:
            return None
        return self.whole - self.lasts if self.whole > self.lasts else self.whole


class Stage:
    def __init__(self, cluster, watch, clients, view, token):
        self.cluster = cluster
        self.watch = watch
        self.load = clients
        self.view = view
        self.token = token
        self.outcome = None
        # The moment of the injection, by the monotonic clock and as Unix time.
        self.moment = self.wall = 0.0
        # Writes to one certain node, beside the load; looked up at the end like those of the load.
        self.probes = []
        # How often each node's files were damaged since its disk was last empty.
        self.damaged = [0] * cluster.nodes

    # --- who ---

    def leader(self):
        return clusters.wait_until("a leader", BACK_SECONDS_MAX, self.watch.leader)

    def follower(self, turn, among=None):
        """A node that does not lead; with another `turn`, another one."""
        leader = self.leader()
        others = [node for node in (among or range(self.cluster.nodes)) if node != leader]
        return others[turn % len(others)]

    # --- a step ---

    def begin(self, title, lasts=0.0):
        self.outcome = Outcome(title, time.monotonic() - self.view.began, lasts)
        self.view.say("fault", title, "head")
        self.moment, self.wall = time.monotonic(), time.time()

    def inject(self, node, kind, **fields):
        body = json.dumps({"kind": kind, **fields}).encode()
        answer = api.call(self.cluster.ports[node], "POST", "/v1/faults", body, {"Content-Type": "application/json"})
        if answer is None or answer[0] != 200:
            what = "no answer" if answer is None else f"{answer[0]} {api.parsed(answer[1]).get('detail', '')}"
            raise clusters.Failed(f"node{node} did not take the fault {kind}: {what}")

    def until(self, what, limit, check):
        deadline = time.monotonic() + limit
        while True:
            found = check()
            if found is not None and found is not False:
                return found
            if self.cluster.broken:
                raise clusters.Failed(self.cluster.broken)
            if time.monotonic() >= deadline:
                raise clusters.Failed(f"{what}: not within {limit:.0f} s")
            time.sleep(LOOK_SECONDS)

    def detected(self, nodes=None, components=None, seen=None):
        """Waits for the first event that notices the fault on one of `nodes` (by default on any) about one of `components`,
        or for what `seen()` says in words."""
        def look():
            for event in self.watch.since(self.wall):
                right = event.what in NOTICED and (nodes is None or event.node in nodes)
                if right and (components is None or event.component in components):
                    return event.time - self.wall, f"node{event.node}: {event.component} {event.what}: {event.detail}"
            words = seen() if seen else None
            return (time.monotonic() - self.moment, words) if words else None

        self.outcome.detected, self.outcome.noticed = self.until("the fault is detected", DETECT_SECONDS_MAX, look)

    def back(self, what, check):
        """Waits until the broken part serves again."""
        self.until(what, BACK_SECONDS_MAX, check)
        self.outcome.back = time.monotonic() - self.moment
        self.view.say("service", f"{what} after {self.outcome.back:.2f} s", "good")

    def writes_go_on(self):
        """A request that was due after the injection is acknowledged."""
        return self.load.acknowledged_since(self.moment)

    def write(self, node, limit):
        """One write to one node, remembered: (its key, its state, the answer)."""
        key = f"{load.PREFIX}probe/{len(self.probes)}"
        due, path = time.monotonic(), f"/v1/kv/{key}?timeout={round(limit * 1000)}ms"
        # The answer to a request that times out at the node is worth waiting for.
        value = history.value_of(key, self.token).encode()
        answer = api.call(self.cluster.ports[node], "PUT", path, value, seconds=2 * limit)
        state = history.UNKNOWN if answer is None else load.outcome(*answer)
        self.probes.append(history.Request(key, due, time.monotonic(), state, 1))
        return key, state, answer

    def serves(self, node):
        """The node itself acknowledges a write and reads it."""
        key, state, _ = self.write(node, PROBE_SECONDS)
        if state != history.ACKNOWLEDGED:
            return False
        read = api.call(self.cluster.ports[node], "GET", f"/v1/kv/{key}", seconds=PROBE_SECONDS)
        return read == (200, history.value_of(key, self.token).encode())

    def healed(self, by="", from_node=None):
        """Waits until the cluster is whole, by states that were seen after the fault was to end."""
        last = self.moment + self.outcome.lasts
        why = "not seen yet"

        def whole():
            nonlocal why
            why = self.watch.unwell(since=last)
            return why is None

        try:
            self.until("the cluster is whole", self.outcome.lasts + HEAL_SECONDS_MAX, whole)
        except clusters.Failed as error:
            raise clusters.Failed(f"{error} ({why})") from None
        self.outcome.whole = time.monotonic() - self.moment
        self.outcome.healed_by = self.healer(from_node) or by
        self.outcome.gap = self.gap()
        self.view.say(
            "healed", f"whole again after {self.outcome.whole:.2f} s"
            f" ({self.outcome.healed_by}); writes stood still for at most {self.outcome.gap:.2f} s", "good"
        )

    def healer(self, node):
        """What the nodes say they did about it, in the words of the event."""
        if node is None:
            return None
        for event in self.watch.since(self.wall):
            if event.node == node and event.what in HEALING and event.component != "cluster":
                return f"{event.component} {event.what.replace('_', ' ')}: {event.detail}"
        return None

    def actor_rebuilt(self, node, component):
        """Waits until the node has told how long it took from noticing that an actor had failed to having another in its place.
        Actors on one thread hang together, and any of them may be noticed first."""
        def first(right):
            return next((event.time for event in self.watch.since(self.wall) if event.node == node and right(event)), None)

        def told():
            failed = first(lambda event: event.what in FAILED)
            again = first(lambda event: event.what == "restarted" and event.component == component)
            return None if failed is None or again is None else max(0.0, again - failed)

        self.outcome.rebuilt = self.until(f"{component} is rebuilt", DETECT_SECONDS_MAX, told)

    def gap(self):
        now = time.monotonic()
        return history.slots(self.load.recent(self.moment), self.moment, now).gap
