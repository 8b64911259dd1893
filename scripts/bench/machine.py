"""What the figures depend on besides the program: processors, memory, kernel, disk."""

import os
import statistics
import subprocess
import time

SYNC_PROBE_APPENDS = 200
SYNC_PROBE_BYTES = 4096


def sync_latency_us(directory):
    """Median and 99th percentile of an append of 4 KiB and its fdatasync, in microseconds."""
    path = os.path.join(directory, "fdatasync-probe")
    block = b"x" * SYNC_PROBE_BYTES
    taken = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(SYNC_PROBE_APPENDS):
            began = time.perf_counter()
            os.write(file, block)
            os.fdatasync(file)
            taken.append((time.perf_counter() - began) * 1e6)
    finally:
        os.close(file)
        os.unlink(path)
    taken.sort()
    return statistics.median(taken), taken[len(taken) * 99 // 100]


def _first(path, name):
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            if line.startswith(name):
                return line.split(":", 1)[1].strip()
    return "unknown"


def file_system(directory):
    answer = subprocess.run(
        ["df", "--output=fstype", directory], capture_output=True, text=True, timeout=10, check=False
    )
    lines = answer.stdout.split()
    return lines[-1] if answer.returncode == 0 and lines else "unknown"


def describe(directory):
    """Lines of Markdown about this machine; `directory` is where the nodes keep their data."""
    memory_kib = int(_first("/proc/meminfo", "MemTotal").split()[0])
    median, p99 = sync_latency_us(directory)
    return [
        f"- date: {time.strftime('%Y-%m-%d', time.gmtime())}",
        f"- processors: {os.cpu_count()} × {_first('/proc/cpuinfo', 'model name')}",
        f"- memory: {memory_kib / 1048576:.0f} GiB; kernel: {os.uname().sysname} {os.uname().release}",
        f"- data on: {file_system(directory)}; append of 4 KiB and fdatasync: "
        f"median {median:.0f} µs, p99 {p99:.0f} µs",
    ]
