"""Five nodes as processes, and what runs them: a node that was killed or found itself unfit is started again.

Only processes that were started here are ever signalled, by their id; they end with the block.
"""

import os
import random
import shutil
import threading
import time

import clusters

NODES = 5
# Exit code of a node that asks to be started again.
UNFIT = 70
LOOK_SECONDS = 0.02
# Nobody may ever read the bits that are flipped: they are found because everything is verified now and then.
SCRUB_INTERVAL = "5s"
# Before a node that ended by itself is started again; twice as long each time that it did not live for SETTLED_SECONDS.
BACKOFF_SECONDS = 0.1
BACKOFF_SECONDS_MAX = 5.0
SETTLED_SECONDS = 10.0
# Ports are first port + shift, below those that the kernel gives to outgoing connections.
SHIFT_MAX = 18_000
SHIFT_TRIES_MAX = 100


def free_shift(nodes):
    """A shift by which all ports of the nodes are free."""
    for _ in range(SHIFT_TRIES_MAX):
        shift = random.randrange(SHIFT_MAX)
        firsts = (Processes.client_port + shift, Processes.peer_port + shift)
        if all(clusters.port_is_free(first + node) for first in firsts for node in range(nodes)):
            return shift
    raise clusters.Failed("no free ports")


class Processes(clusters.VaultDb):
    """A context manager. `note(node, text)` is told what was done to a process."""

    kind = "processes"

    def __init__(self, binary, directory, note):
        settings = {"VAULTDB_ENABLE_FAULT_INJECTION": "true", "VAULTDB_SCRUB_INTERVAL_MS": SCRUB_INTERVAL}
        super().__init__(binary, NODES, os.path.join(directory, "nodes"), settings, free_shift(NODES))
        self.note = note
        self.over = threading.Event()
        self.lock = threading.Lock()
        # Node -> (when to start it, whether its disk is to be empty by then).
        self.due = {}
        self.born = [0.0] * NODES
        self.backoff = [BACKOFF_SECONDS] * NODES
        # (monotonic time, node) of each that ended as unfit.
        self.gave_up = []
        # Why the demo cannot go on: a node ended in a way that no restart heals.
        self.broken = None
        self.tender = threading.Thread(target=self.tend, name="tender", daemon=True)

    @property
    def ports(self):
        return [self.client_port + node for node in range(self.nodes)]

    @property
    def wipeable(self):
        return range(self.nodes)

    def command(self, node):
        peers = ",".join(self.endpoint(number) for number in range(self.nodes))
        return [
            self.binary, "-id", f"node{node}", "-haddr", self.endpoint(node), "-raddr", f"localhost:{self.peer_port + node}",
            "--bootstrap-expect", str(self.nodes), "--peers", peers, self.data(node),
        ]

    def data(self, node):
        return os.path.join(self.directory, f"node{node}")

    def __enter__(self):
        super().__enter__()
        self.tender.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.tender.is_alive():
            self.tender.join(timeout=clusters.STOP_SECONDS_MAX)
        self.stop()

    def spawn(self, node):
        self.born[node] = time.monotonic()
        return super().spawn(node)

    def kill(self, nodes, away, wiped=False):
        """SIGKILL; started again after `away` seconds, with empty disks if `wiped`."""
        with self.lock:
            for node in nodes:
                self.due[node] = (time.monotonic() + away, wiped)
                self.processes[node].kill()
        for node in nodes:
            self.note(node, "killed (SIGKILL)" + (", its disk is emptied" if wiped else ""))

    def tend(self):
        while not self.over.wait(LOOK_SECONDS):
            with self.lock:
                for node, process in enumerate(self.processes):
                    if process.poll() is not None:
                        self.tend_ended(node, process.returncode)

    def tend_ended(self, node, code):
        now = time.monotonic()
        if node not in self.due:
            if code != UNFIT and code >= 0:
                self.broken = self.broken or f"node{node} ended with exit code {code}"
                return
            if code == UNFIT:
                self.gave_up.append((now, node))
            if now - self.born[node] >= SETTLED_SECONDS:
                self.backoff[node] = BACKOFF_SECONDS
            self.due[node] = (now + self.backoff[node], False)
            self.backoff[node] = min(2 * self.backoff[node], BACKOFF_SECONDS_MAX)
            self.note(node, f"ended with exit code {code}" if code >= 0 else f"ended by signal {-code}")
        when, wiped = self.due[node]
        if now >= when:
            if wiped:
                shutil.rmtree(self.data(node))
            del self.due[node]
            self.processes[node] = self.spawn(node)
            self.note(node, "started again by what runs it")
