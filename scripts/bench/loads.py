"""One load on one node, or on several: runs a generator and answers its report."""

import json
import os
import subprocess

from clusters import Failed

# Longest that a generator may take beyond its own warm-up and measurement, in seconds.
SLACK_SECONDS = 60
# Longest that writing all keys once may take, in seconds.
PREFILL_SECONDS_MAX = 180


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
        raise Failed(f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()} {done.stdout.strip()}")
    return json.loads(done.stdout)["runs"][0]


def vaultdb(binary, endpoint, clients, time, operation="put", flags=()):
    """`endpoint`: one, or several with commas between."""
    seconds, warmup = time
    return run(
        [
            binary, "bench", operation, "--endpoints", endpoint, "--connections", str(clients),
            "--duration", f"{round(seconds * 1000)}ms", "--warmup", f"{round(warmup * 1000)}ms", "--output", "json",
            *flags,
        ],
        seconds + warmup,
    )


def etcd(binary, endpoint, clients, time, way, operation="put", flags=()):
    """`way`: "json", or how many gRPC channels."""
    seconds, warmup = time
    interface = ["--interface", "json"] if way == "json" else ["--channels", str(way)]
    return run(
        [
            binary, operation, "--endpoint", endpoint, "--connections", str(clients), *interface,
            "--duration", f"{round(seconds * 1000)}ms", "--warmup", f"{round(warmup * 1000)}ms", *flags,
        ],
        seconds + warmup,
    )


def prefill(reader, keys):
    """Writes all keys once. `reader`: a generator's command that reads from one node."""
    flags = ["--keys", str(keys), "--prefill", "--connections", "1", "--warmup", "0s", "--duration", "100ms"]
    run([*reader, *flags], PREFILL_SECONDS_MAX)
