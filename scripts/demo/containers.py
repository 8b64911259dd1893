"""Five nodes as docker-compose.yml has them, with fault injection on. Docker restarts what ends by itself; what is killed by
hand is started again from here.

Everything made has this run's project name and goes with the block. See scripts/demo-stack.sh.
"""

import os
import random
import subprocess
import threading
import time

import clusters
from processes import NODES, SHIFT_MAX, SHIFT_TRIES_MAX, UNFIT

UP_SECONDS_MAX = 600
DOWN_SECONDS_MAX = 120
COMMAND_SECONDS_MAX = 60
LOOK_SECONDS = 0.05
FIRST_PORT = 20_000


def free_ports():
    for _ in range(SHIFT_TRIES_MAX):
        first = FIRST_PORT + random.randrange(SHIFT_MAX // 2)
        ports = [first + node for node in range(NODES)]
        if all(clusters.port_is_free(port) for port in ports):
            return ports
    raise clusters.Failed("no free ports")


def run(command, seconds, environment=None):
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False, env=environment, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired:
        raise clusters.Failed(f"{' '.join(command)}: not done within {seconds} s") from None
    if done.returncode != 0:
        raise clusters.Failed(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-clusters.LOG_TAIL_BYTES:]}")
    return done.stdout


class Containers:
    """A context manager with the methods of processes.Processes."""

    kind = "containers"
    nodes = NODES

    def __init__(self, binary, directory, note):
        self.stack = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "demo-stack.sh")
        self.ports = free_ports()
        self.note = note
        self.broken = None
        # (monotonic time, node) of each that ended as unfit.
        self.gave_up = []
        self.listener = None
        self.over = threading.Event()
        self.lock = threading.Lock()
        # Node -> when to start it again.
        self.due = {}
        self.ids = []
        name = f"vaultdb-demo-{os.getpid()}"
        self.environment = {
            **os.environ, "PROJECT": name, "COMPOSE_IMAGE": f"vaultdb:demo-{os.getpid()}",
            "COMPOSE_WORK": os.path.join(directory, "compose"), "BINARY": binary,
            **{f"HTTP_PORT_{node}": str(port) for node, port in enumerate(self.ports)},
        }
        self.tender = threading.Thread(target=self.tend, name="tender", daemon=True)

    @property
    def wipeable(self):
        """node0 has no -join: with an empty disk it would found a second cluster."""
        return range(1, self.nodes)

    def __enter__(self):
        try:
            self.ids = run([self.stack, "up"], UP_SECONDS_MAX, self.environment).split()
            if len(self.ids) != self.nodes:
                raise clusters.Failed(f"{len(self.ids)} containers in place of {self.nodes}")
            clusters.wait_until("five containers form a cluster", clusters.START_SECONDS_MAX, self.formed)
        except BaseException as error:
            tails = self.log_tails()
            self.down()
            if isinstance(error, clusters.Failed):
                raise clusters.Failed(f"{error}\n{tails}") from None
            raise
        self.tender.start()
        self.listen()
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.listener:
            self.listener.kill()
            self.listener.wait()
        if self.tender.is_alive():
            self.tender.join(timeout=COMMAND_SECONDS_MAX)
        self.down()

    def listen(self):
        """Has the engine tell which container ends, and how."""
        filters = [word for name in self.ids for word in ("--filter", f"container={name}")]
        self.listener = subprocess.Popen(
            ["docker", "events", "--filter", "event=die", *filters, "--format", "{{.Actor.ID}} {{.Actor.Attributes.exitCode}}"],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )
        threading.Thread(target=self.hear, name="listener", daemon=True).start()

    def hear(self):
        for line in self.listener.stdout:
            ended, code = line.split()
            node = next(node for node, name in enumerate(self.ids) if name == ended)
            if code == str(UNFIT):
                self.gave_up.append((time.monotonic(), node))
                self.note(node, f"ended with exit code {code}")

    def down(self):
        subprocess.run(
            [self.stack, "down"], env=self.environment, timeout=DOWN_SECONDS_MAX, check=False, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )

    def formed(self):
        statuses = [clusters.ask(f"http://127.0.0.1:{port}/status") for port in self.ports]
        if not all(statuses):
            return False
        leaders = {status["cluster"]["leader"] for status in statuses}
        voters = [sum(member["role"] == "voter" for member in status["cluster"]["members"]) for status in statuses]
        return len(leaders) == 1 and None not in leaders and voters == [self.nodes] * self.nodes

    def log_tails(self):
        tails = []
        for node, name in enumerate(self.ids):
            done = subprocess.run(
                ["docker", "logs", "--tail", "15", name], capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS_MAX
            )
            tails.append(f"--- the end of node{node}'s log\n{done.stdout}{done.stderr}")
        return "\n".join(tails)

    def kill(self, nodes, away, wiped=False):
        """SIGKILL; started again after `away` seconds, with empty volumes if `wiped`."""
        run(["docker", "kill", *(self.ids[node] for node in nodes)], COMMAND_SECONDS_MAX)
        when = time.monotonic() + away
        for node in nodes:
            self.note(node, "killed (docker kill)" + (", its volume is emptied" if wiped else ""))
            if wiped:
                self.empty(node)
            with self.lock:
                self.due[node] = when

    def empty(self, node):
        run(
            ["docker", "run", "--rm", "--network", "none", "--volumes-from", self.ids[node], "--entrypoint", "find",
             self.environment["COMPOSE_IMAGE"], "/data", "-mindepth", "1", "-delete"],
            COMMAND_SECONDS_MAX,
        )

    def tend(self):
        while not self.over.wait(LOOK_SECONDS):
            with self.lock:
                ready = [node for node, when in self.due.items() if time.monotonic() >= when]
                for node in ready:
                    del self.due[node]
            for node in ready:
                try:
                    run(["docker", "start", self.ids[node]], COMMAND_SECONDS_MAX)
                except clusters.Failed as error:
                    self.broken = str(error)
                    return
                self.note(node, "started again by what runs it")
