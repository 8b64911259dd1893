"""What the nodes tell: /status and /v1/events of each, asked again and again by one thread a node.

Only looks; nothing here changes a node.
"""

import http.client
import threading
import time
from collections import deque
from typing import NamedTuple

import api

POLL_SECONDS = 0.1
ASK_SECONDS_MAX = 0.5
# A status older than this says nothing about a node any more.
FRESH_SECONDS = 1.0
EVENTS_KEPT_MAX = 10_000
# Entries that a member may lag behind and still count as caught up.
LAG_ENTRIES_MAX = 1000


class Event(NamedTuple):
    node: int
    # Unix time in seconds, by the node's clock, which is this machine's.
    time: float
    component: str
    what: str
    detail: str


class Watched(threading.Thread):
    """The last words of one node."""

    def __init__(self, node, port, watch):
        super().__init__(name=f"watch{node}", daemon=True)
        self.node = node
        self.port = port
        self.watch = watch
        self.status = None
        self.status_at = 0.0
        self.since = 0
        # (time, number) of the newest event: numbers begin anew with each process, times do not.
        self.newest = (0, 0)

    def run(self):
        kept = api.connection(self.port, ASK_SECONDS_MAX)
        while not self.watch.over.wait(POLL_SECONDS):
            try:
                # Events first: they say when a thing was noticed, a status only that it was.
                code, body = api.exchange(kept, "GET", f"/v1/events?since={self.since}")
                if code == 200:
                    self.take(api.parsed(body))
                code, body = api.exchange(kept, "GET", "/status")
                if code == 200:
                    self.status, self.status_at = api.parsed(body), time.monotonic()
            except (OSError, http.client.HTTPException):
                kept.close()
                self.since = 0

    def take(self, answer):
        if answer.get("last_seq", 0) < self.since:
            self.since = 0
            return
        for event in answer.get("events", []):
            self.since = max(self.since, event["seq"])
            place = (event["time_ms"], event["seq"])
            if place > self.newest:
                self.newest = place
                self.watch.add(Event(
                    self.node, event["time_ms"] / 1000, event["component"], event["what"], event["detail"]
                ))

    def fresh(self):
        """The status, unless it is old."""
        return self.status if time.monotonic() - self.status_at <= FRESH_SECONDS else None


class Watch:
    """All nodes. A context manager: the threads end with the block."""

    def __init__(self, ports, on_event):
        self.on_event = on_event
        self.over = threading.Event()
        self.events = deque(maxlen=EVENTS_KEPT_MAX)
        self.nodes = [Watched(node, port, self) for node, port in enumerate(ports)]

    def __enter__(self):
        for node in self.nodes:
            node.start()
        return self

    def __exit__(self, *_):
        self.over.set()

    def add(self, event):
        self.events.append(event)
        self.on_event(event)

    def since(self, moment):
        """Events from a Unix time on, oldest first."""
        return sorted((event for event in list(self.events) if event.time >= moment), key=lambda event: event.time)

    def statuses(self):
        return [node.fresh() for node in self.nodes]

    def leader(self):
        """Number of the node that says of itself that it leads, of several the one of the highest term; else None."""
        leading = [
            (status["cluster"]["term"], node)
            for node, status in enumerate(self.statuses())
            if status and status["node"]["state"] == "leader"
        ]
        return max(leading)[1] if leading else None

    def unwell(self, since=0.0):
        """Why the cluster is not whole, in words; None when every node was seen healthy after `since`."""
        if any(node.status_at <= since for node in self.nodes):
            return "not every node answers"
        return unwell(self.statuses())


def unwell(statuses):
    """Why these are not the nodes of a whole cluster: healthy, all voters, agreed on a leader, caught up."""
    for node, status in enumerate(statuses):
        if status is None:
            return f"node{node} does not answer"
        if status["health"]["state"] != "healthy":
            return f"node{node} is {status['health']['state']}"
        if status["node"]["state"] not in ("leader", "follower"):
            return f"node{node} is a {status['node']['state']}"
        voters = [member for member in status["cluster"]["members"] if member["role"] == "voter"]
        if len(voters) != len(statuses) or len(status["cluster"]["members"]) != len(statuses):
            return f"node{node} does not count {len(statuses)} voters"
    if len({status["cluster"]["leader"] for status in statuses}) != 1:
        return "the nodes do not agree on a leader"
    for status in statuses:
        if status["node"]["state"] == "leader":
            for member in status["cluster"]["members"]:
                if not member["reachable"] or member["lag_entries"] > LAG_ENTRIES_MAX:
                    return f"{member['name']} has not caught up"
            return None
    return "nobody leads"
