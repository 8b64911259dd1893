"""Clusters of VaultDB and of etcd on loopback: start, wait, measure memory, stop.

Only processes that were started here are ever signalled, by their id. Every wait has a limit.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

START_SECONDS_MAX = 60
STOP_SECONDS_MAX = 15
ASK_SECONDS_MAX = 2
POLL_SECONDS = 0.1
LOG_TAIL_BYTES = 3000
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# A node without load is idle; its clock ticks and heartbeats take less than this share of a processor.
IDLE_SHARE_MAX = 0.04
IDLE_PROBE_SECONDS = 0.5
IDLE_SECONDS_MAX = 60


class Failed(Exception):
    """Why there is no measurement: one message for whoever runs the script."""


def run_script(name, main):
    """Runs a script's main function and exits. However it ends, it is through the blocks that stop the nodes: SIGTERM, an interrupt,
    and `Failed`, which is told under the script's name."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"{name}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def ask(url, body=None):
    """The JSON that the node answers, or None while it does not."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(url, data=data, timeout=ASK_SECONDS_MAX) as answer:
            return json.load(answer)
    except (OSError, urllib.error.URLError, ValueError):
        return None


def wait_until(what, seconds, check):
    """Answers what `check` does once that is neither None nor False."""
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value is not None and value is not False:
            return value
        if time.monotonic() >= deadline:
            raise Failed(f"{what}: not within {seconds} s")
        time.sleep(POLL_SECONDS)


def port_is_free(port):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class Cluster:
    """Some nodes of one system. A context manager: the nodes end with the block."""

    name = ""
    # Client port of the first node, and port of the first for its peers.
    client_port = 0
    peer_port = 0

    def __init__(self, binary, nodes, directory, settings=None, shift=0):
        """`settings`: environment of the nodes; `shift`: of the ports, so that clusters can stand side by side."""
        self.binary = binary
        self.nodes = nodes
        self.directory = directory
        self.settings = settings or {}
        self.client_port += shift
        self.peer_port += shift
        self.processes = []

    def command(self, node):
        raise NotImplementedError

    def leader(self):
        """Number of the node that leads, once all nodes are members and agree; else None."""
        raise NotImplementedError

    def endpoint(self, node):
        return f"localhost:{self.client_port + node}"

    def url(self, node, path):
        return f"http://127.0.0.1:{self.client_port + node}{path}"

    def __enter__(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        os.makedirs(self.directory)
        for node in range(self.nodes):
            for port in (self.client_port + node, self.peer_port + node):
                if not port_is_free(port):
                    raise Failed(f"port {port} of localhost is in use; {self.name} needs it")
        # A node takes VAULTDB_* and ETCD_* for its settings.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("VAULTDB_", "ETCD_"))}
        clean.update(self.settings)
        self.environment = clean
        try:
            # One by one, so that an interruption in between finds those that run.
            for node in range(self.nodes):
                self.processes.append(self.spawn(node))
            self.started = time.monotonic()
            wait_until(f"{self.nodes} nodes of {self.name} form a cluster", START_SECONDS_MAX, self.formed)
        except BaseException as error:
            tails = self.log_tails()
            self.stop()
            if isinstance(error, Failed):
                raise Failed(f"{error}\n{tails}") from None
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def spawn(self, node):
        with open(self.log(node), "ab") as log:
            return subprocess.Popen(
                self.command(node), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment
            )

    def formed(self):
        for node, process in enumerate(self.processes):
            if process.poll() is not None:
                raise Failed(f"node {node} of {self.name} ended with {process.returncode}")
        return self.leader() is not None

    def wait_leader(self):
        return wait_until(f"{self.name} has a leader", START_SECONDS_MAX, self.leader)

    def log(self, node):
        return os.path.join(self.directory, f"node{node}.log")

    def log_tails(self):
        tails = []
        for node in range(self.nodes):
            if os.path.exists(self.log(node)):
                with open(self.log(node), "rb") as log:
                    log.seek(max(0, os.path.getsize(self.log(node)) - LOG_TAIL_BYTES))
                    tails.append(f"--- the end of {self.log(node)}\n{log.read().decode(errors='replace')}")
        return "\n".join(tails)

    def memory_mib(self):
        """Of each node: resident now and at its peak, in MiB."""
        found = []
        for node, process in enumerate(self.processes):
            try:
                with open(f"/proc/{process.pid}/status", encoding="utf-8") as status:
                    text = status.read()
                values = [int(re.search(rf"{key}:\s+(\d+) kB", text)[1]) / 1024 for key in ("VmRSS", "VmHWM")]
            except (OSError, TypeError):
                raise Failed(f"node {node} of {self.name} is gone\n{self.log_tails()}") from None
            found.append(tuple(values))
        return found

    def cpu_seconds(self):
        """Processor time that each node has used, user and kernel."""
        used = []
        for node, process in enumerate(self.processes):
            try:
                with open(f"/proc/{process.pid}/stat", encoding="utf-8") as stat:
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                raise Failed(f"node {node} of {self.name} is gone\n{self.log_tails()}") from None
            used.append((int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND)
        return used

    def wait_idle(self, seconds=IDLE_SECONDS_MAX):
        """Until flushes, compactions and catching up are done: no node uses more than IDLE_SHARE_MAX of a processor."""
        last = self.cpu_seconds()

        def idle():
            nonlocal last
            time.sleep(IDLE_PROBE_SECONDS)
            now = self.cpu_seconds()
            busiest, last = max(b - a for a, b in zip(last, now)), now
            return busiest <= IDLE_SHARE_MAX * IDLE_PROBE_SECONDS

        wait_until(f"{self.name} is idle", seconds, idle)

    def stop(self):
        # Their data is thrown away: nothing has to end in order.
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait(timeout=STOP_SECONDS_MAX)
        self.processes = []
        shutil.rmtree(self.directory, ignore_errors=True)


class VaultDb(Cluster):
    name = "VaultDB"
    client_port = 13000
    peer_port = 14000

    def command(self, node):
        join = ["-join", f":{self.client_port}"] if node else []
        return [
            self.binary, "-id", f"node{node}", "-haddr", self.endpoint(node),
            "-raddr", f"localhost:{self.peer_port + node}", *join, os.path.join(self.directory, f"node{node}"),
        ]

    def leader(self):
        leaders = set()
        for node in range(self.nodes):
            status = ask(self.url(node, "/status"))
            if status is None:
                return None
            cluster = status["cluster"]
            voters = [member for member in cluster["members"] if member["role"] == "voter"]
            if len(voters) != self.nodes:
                return None
            leaders.add(cluster["leader"])
        if len(leaders) != 1 or None in leaders:
            return None
        return int(leaders.pop().removeprefix("node"))


class Etcd(Cluster):
    name = "etcd"
    client_port = 15000
    peer_port = 16000

    def endpoint(self, node):
        return f"127.0.0.1:{self.client_port + node}"

    def command(self, node):
        def peer(number):
            return f"http://127.0.0.1:{self.peer_port + number}"

        client = f"http://127.0.0.1:{self.client_port + node}"
        members = ",".join(f"node{number}={peer(number)}" for number in range(self.nodes))
        return [
            self.binary, "--name", f"node{node}", "--data-dir", os.path.join(self.directory, f"node{node}"),
            "--listen-client-urls", client, "--advertise-client-urls", client,
            "--listen-peer-urls", peer(node), "--initial-advertise-peer-urls", peer(node),
            "--initial-cluster", members, "--initial-cluster-state", "new", "--log-level", "error",
        ]

    def leader(self):
        leaders, ids = set(), {}
        for node in range(self.nodes):
            status = ask(self.url(node, "/v3/maintenance/status"), {})
            if status is None or status.get("leader", "0") == "0":
                return None
            leaders.add(status["leader"])
            ids[status["header"]["member_id"]] = node
        return ids.get(leaders.pop()) if len(leaders) == 1 else None


class Hello(Cluster):
    """bench/examples/hello.rs: one server that answers every GET with the same bytes."""

    name = "hello-world"
    client_port = 17000
    peer_port = 18000

    def __init__(self, binary, directory, workers, body_bytes):
        super().__init__(binary, 1, directory)
        self.numbers = [str(workers), str(body_bytes)]

    def endpoint(self, node):
        return f"127.0.0.1:{self.client_port + node}"

    def command(self, node):
        return [self.binary, str(self.client_port + node), *self.numbers]

    def leader(self):
        try:
            with urllib.request.urlopen(self.url(0, "/"), timeout=ASK_SECONDS_MAX) as answer:
                return 0 if answer.status == 200 else None
        except OSError:
            return None
