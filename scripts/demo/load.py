"""The load: clients that write at a fixed rate, each request to the next node that answers, repeated under its
Idempotency-Key until it is acknowledged or given up.

Remembers what became of every request. An answer that did not come is an unknown outcome, never a failure.
"""

import http.client
import threading
import time

import api
import history

# Longest that one attempt waits for its answer; then the next node is asked.
ATTEMPT_SECONDS = 0.5
# Longest that a request is repeated. After that its outcome stays what it is.
GIVE_UP_SECONDS = 10.0
# How long a node that did not answer is left alone; after that one client at a time tries it.
SUSPENDED_SECONDS = 0.5
# Between two attempts of a request, so that a cluster without a leader is not asked in a loop.
PAUSE_SECONDS = 0.02
PREFIX = "demo/"
JOIN_SECONDS_MAX = GIVE_UP_SECONDS + 5


class Turns:
    """Whose turn it is among the nodes that answer; shared by all clients, as in a pool of connections."""

    def __init__(self, nodes, clock=time.monotonic):
        self.clock = clock
        self.lock = threading.Lock()
        self.next = 0
        self.suspended = [0.0] * nodes

    def take(self):
        """The next node that is not suspended; with none, the next one."""
        with self.lock:
            now, count = self.clock(), len(self.suspended)
            for step in range(count):
                node = (self.next + step) % count
                if self.suspended[node] <= now:
                    break
            else:
                node = self.next
            self.next = (node + 1) % count
            if self.suspended[node]:
                self.suspended[node] = now + SUSPENDED_SECONDS
            return node

    def answered(self, node):
        with self.lock:
            self.suspended[node] = 0.0

    def failed(self, node):
        with self.lock:
            self.suspended[node] = self.clock() + SUSPENDED_SECONDS


def outcome(status, body):
    """What may be concluded from an answer to a write."""
    if status == 200:
        return history.ACKNOWLEDGED
    return history.REFUSED if api.parsed(body).get("applied") == "no" else history.UNKNOWN


class Client(threading.Thread):
    """One client with connections of its own."""

    def __init__(self, load, number):
        super().__init__(name=f"client{number}", daemon=True)
        self.load = load
        self.number = number
        self.kept = {}
        self.done = []

    def run(self):
        due, sent = self.load.begin + self.number * self.load.interval / self.load.clients_count, 0
        while not self.load.over.wait(max(0.0, due - time.monotonic())):
            self.done.append(self.write(f"{PREFIX}{self.number}/{sent}", due))
            due, sent = due + self.load.interval, sent + 1
        for kept in self.kept.values():
            kept.close()

    def write(self, key, due):
        began, attempts, possible = time.monotonic(), 0, False
        while True:
            attempts += 1
            state = self.attempt(key)
            now = time.monotonic()
            if state == history.ACKNOWLEDGED:
                return history.Request(key, due, now, state, attempts)
            possible |= state == history.UNKNOWN
            if now - began >= GIVE_UP_SECONDS:
                state = history.UNKNOWN if possible else history.REFUSED
                return history.Request(key, due, now, state, attempts)
            time.sleep(PAUSE_SECONDS)

    def attempt(self, key):
        node = self.load.turns.take()
        kept = self.kept.get(node)
        try:
            if kept is None:
                kept = api.connection(self.load.ports[node], ATTEMPT_SECONDS)
                kept.connect()
                self.kept[node] = kept
        except OSError:
            # Nothing was sent.
            self.load.turns.failed(node)
            return history.REFUSED
        try:
            path = f"/v1/kv/{key}?timeout={round(ATTEMPT_SECONDS * 1000)}ms"
            name = {"Idempotency-Key": f"{self.load.token}-{key}"}
            state = outcome(*api.exchange(kept, "PUT", path, history.value_of(key, self.load.token).encode(), name))
        except (OSError, http.client.HTTPException):
            kept.close()
            del self.kept[node]
            state = history.UNKNOWN
        if state == history.ACKNOWLEDGED:
            self.load.turns.answered(node)
        else:
            self.load.turns.failed(node)
        return state


class Load:
    """A context manager: the clients run from start() until stop(), and never outlive the block."""

    def __init__(self, ports, clients, rate, token):
        self.ports = ports
        self.clients_count = clients
        # Requests a second, of all clients together.
        self.rate = rate
        # Between two requests of one client.
        self.interval = clients / rate
        self.token = token
        self.turns = Turns(len(ports))
        self.over = threading.Event()
        self.begin = self.end = None
        self.clients = [Client(self, number) for number in range(clients)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()

    def start(self):
        self.begin = time.monotonic()
        for client in self.clients:
            client.start()

    def stop(self):
        """Ends the load once every request in flight has its outcome."""
        self.end = time.monotonic()
        self.over.set()
        for client in self.clients:
            client.join(timeout=JOIN_SECONDS_MAX)

    def requests(self):
        return [request for client in self.clients for request in client.done]

    def recent(self, moment):
        """Requests that ended after a moment; looks at no more of a long run than that."""
        for client in self.clients:
            for request in reversed(client.done):
                if request.ended < moment:
                    break
                yield request

    def acknowledged_since(self, moment):
        """Whether a request that was due after a moment was acknowledged."""
        return any(request.due >= moment and request.state == history.ACKNOWLEDGED for request in self.recent(moment))
