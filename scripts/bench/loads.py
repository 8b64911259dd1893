"""One load on one node: runs a generator and answers its report."""

import json
import os
import subprocess

from clusters import Failed

# Longest that a generator may take beyond its own warm-up and measurement, in seconds.
SLACK_SECONDS = 60


def run(command, seconds):
    """The only run of the generator's JSON."""
    # Data that an earlier run left to be written back would slow this one.
    os.sync()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds + SLACK_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)}: no result within {seconds + SLACK_SECONDS} s") from None
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout)["runs"][0]


def vaultdb(binary, endpoint, clients, time, operation="put"):
    seconds, warmup = time
    return run(
        [
            binary, "bench", operation, "--endpoints", endpoint, "--connections", str(clients),
            "--duration", f"{round(seconds * 1000)}ms", "--warmup", f"{round(warmup * 1000)}ms", "--output", "json",
        ],
        seconds + warmup,
    )


def etcd(binary, endpoint, clients, time, way, operation="put"):
    """`way`: "json", or how many gRPC channels."""
    seconds, warmup = time
    interface = ["--interface", "json"] if way == "json" else ["--channels", str(way)]
    return run(
        [
            binary, operation, "--endpoint", endpoint, "--connections", str(clients), *interface,
            "--duration", f"{round(seconds * 1000)}ms", "--warmup", f"{round(warmup * 1000)}ms",
        ],
        seconds + warmup,
    )
