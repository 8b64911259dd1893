"""Control groups that give a process a share of a processor: version 2, or version 1 where that has the controller.

Owns the directories that it makes and removes them all. Never moves a process that it was not given.
"""

import os
import subprocess
import sys
import time

REMOVE_SECONDS_MAX = 5
# Short, so that a node that has used up its share waits for milliseconds. The kernel takes no quota below 1 ms.
PERIOD_US = 10_000
QUOTA_US_MIN = 1_000


class Unavailable(Exception):
    """Why no quotas can be set here: one sentence."""


def _mounts():
    """(mount point, type, options) of every mounted hierarchy."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        for line in mounts:
            _, where, kind, options, *_ = line.split()
            if kind in ("cgroup", "cgroup2"):
                yield where, kind, options.split(",")


def _own(controller):
    """Path of this process within a hierarchy; `controller` is "" for version 2."""
    with open("/proc/self/cgroup", encoding="utf-8") as lines:
        for line in lines:
            _, controllers, path = line.strip().split(":", 2)
            if controller in controllers.split(","):
                return path
    return "/"


def _write(directory, name, text):
    with open(os.path.join(directory, name), "w", encoding="ascii") as file:
        file.write(text)


def _read(directory, name):
    with open(os.path.join(directory, name), encoding="ascii") as file:
        return file.read()


class Quotas:
    """A parent directory of groups. A context manager: groups that are left are removed at its end."""

    def __init__(self):
        self.version = 2
        self.parent = None
        self.enabled_at = None
        self.groups = []
        self.prefix = f"vaultdb-bench-{os.getpid()}"

    def __enter__(self):
        reasons = []
        try:
            for where, kind, options in _mounts():
                if kind == "cgroup2":
                    self.version = 2
                    reasons += self._try_version_2(where)
                elif "cpu" in options:
                    self.version = 1
                    reasons += self._try_parents(where, _own("cpu"), lambda parent: self._probe(parent))
                if self.parent:
                    return self
        except BaseException:
            self.__exit__()
            raise
        reason = "; ".join(reasons) or "no hierarchy of control groups is mounted"
        raise Unavailable(f"no control group of this machine takes a quota of processor time ({reason})")

    def _try_version_2(self, where):
        if "cpu" not in _read(where, "cgroup.controllers").split():
            return [f"{where} (version 2) has no cpu controller"]
        return self._try_parents(where, _own(""), self._probe_version_2)

    def _try_parents(self, where, path, probe):
        """This process's own group first, then those above it."""
        reasons = []
        while True:
            parent = os.path.join(where, path.lstrip("/"))
            try:
                probe(parent)
                self.parent = parent
                return []
            except OSError as error:
                reasons.append(f"{parent} (version {self.version}): {error.strerror}")
            if path in ("/", ""):
                return reasons[-1:]
            path = os.path.dirname(path)

    def _probe_version_2(self, parent):
        if "cpu" not in _read(parent, "cgroup.subtree_control").split():
            _write(parent, "cgroup.subtree_control", "+cpu")
            self.enabled_at = parent
        self._probe(parent)

    def _probe(self, parent):
        """Tries everything once that will be needed, on a process of its own."""
        group = Group(self, os.path.join(parent, f"{self.prefix}-probe"))
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            os.mkdir(group.directory)
            group.limit(0.5)
            group.take(process.pid)
        finally:
            process.kill()
            process.wait()
            process.stdin.close()
            group.remove()

    def group(self, name):
        group = Group(self, os.path.join(self.parent, f"{self.prefix}-{name}"))
        os.mkdir(group.directory)
        self.groups.append(group)
        return group

    def __exit__(self, *_):
        for group in self.groups:
            group.remove()
        self.groups = []
        if self.enabled_at:
            try:
                _write(self.enabled_at, "cgroup.subtree_control", "-cpu")
            except OSError as error:
                print(f"{self.enabled_at}: the cpu controller stays enabled: {error.strerror}", file=sys.stderr)
            self.enabled_at = None

    def __str__(self):
        return f"control groups of version {self.version}"


class Group:
    def __init__(self, quotas, directory):
        self.version = quotas.version
        self.directory = directory

    def take(self, pid):
        """Moves a process and all its threads here."""
        _write(self.directory, "cgroup.procs", str(pid))

    def limit(self, share):
        """`share`: of one processor; None takes the limit away."""
        quota = None if share is None else max(round(share * PERIOD_US), QUOTA_US_MIN)
        if self.version == 2:
            _write(self.directory, "cpu.max", f"{'max' if quota is None else quota} {PERIOD_US}")
            return
        _write(self.directory, "cpu.cfs_period_us", str(PERIOD_US))
        _write(self.directory, "cpu.cfs_quota_us", str(-1 if quota is None else quota))

    def throttled_periods(self):
        """(periods in which the group ran into its quota, all periods in which it ran) so far."""
        fields = dict(line.split() for line in _read(self.directory, "cpu.stat").splitlines())
        return int(fields.get("nr_throttled", 0)), int(fields.get("nr_periods", 0))

    def remove(self):
        # The kernel lets a process go a moment after it has ended.
        deadline = time.monotonic() + REMOVE_SECONDS_MAX
        while os.path.isdir(self.directory):
            try:
                os.rmdir(self.directory)
            except OSError as error:
                if time.monotonic() >= deadline:
                    print(f"{self.directory} stays behind: {error.strerror}", file=sys.stderr)
                    return
                time.sleep(0.05)
