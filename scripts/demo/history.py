"""What became of each request of the load, and what that says about the service. Plain data: no I/O, no clock.

Each write has a key of its own that is written once, so each acknowledged one can be looked up by itself.
"""

from typing import NamedTuple

SLOT_SECONDS = 0.1
# A request that is acknowledged within this time, its retries included, counts as served.
SERVED_SECONDS_MAX = 2.0

ACKNOWLEDGED = "acknowledged"
# Every attempt was answered with `applied: "no"`, or never left this machine.
REFUSED = "refused"
UNKNOWN = "unknown"


class Request(NamedTuple):
    key: str
    # When it was to be sent, not when a client got to it: a queue behind an outage counts as the outage.
    due: float
    ended: float
    state: str
    attempts: int


class Slots(NamedTuple):
    total: int
    covered: int
    # Longest time between two acknowledged writes, in seconds.
    gap: float


def value_of(key, token):
    """The only value that is ever written to a key; `token` tells this run from others."""
    return f"{token}:{key}"


def slots(requests, begin, end):
    """Whole slots between two moments, and those in which a write was acknowledged."""
    total = int((end - begin) / SLOT_SECONDS + 1e-9)
    last = begin + total * SLOT_SECONDS
    times = sorted(request.ended for request in requests if request.state == ACKNOWLEDGED and begin <= request.ended < last)
    covered = len({min(int((time - begin) / SLOT_SECONDS), total - 1) for time in times})
    edges = [begin, *times, last]
    return Slots(total, covered, max(b - a for a, b in zip(edges, edges[1:])))


def served(requests):
    """How many were acknowledged within SERVED_SECONDS_MAX of their time."""
    return sum(request.state == ACKNOWLEDGED and request.ended - request.due <= SERVED_SECONDS_MAX for request in requests)


class Contents:
    """What one node holds, looked up request by request."""

    def __init__(self):
        self.lost = []
        # Keys with another value than the only one that was written to them, or written by nobody.
        self.wrong = []
        # Refused for certain, and there all the same.
        self.ghosts = []
        # Unknown ones that took effect.
        self.effective = set()

    @property
    def sound(self):
        return not (self.lost or self.wrong or self.ghosts)


def check(requests, items, token):
    """Compares what was answered with the (key, value) pairs that a node lists."""
    found, states = Contents(), {request.key: request.state for request in requests}
    for key, value in items:
        state = states.pop(key, None)
        if state is None or value != value_of(key, token):
            found.wrong.append(key)
        elif state == REFUSED:
            found.ghosts.append(key)
        elif state == UNKNOWN:
            found.effective.add(key)
    found.lost = [key for key, state in states.items() if state == ACKNOWLEDGED]
    return found
