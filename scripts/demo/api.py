"""Requests to one node. Every one has a limit in time."""

import http.client
import json

HOST = "127.0.0.1"
PIECE_BYTES = 65_536


def connection(port, seconds):
    return http.client.HTTPConnection(HOST, port, timeout=seconds)


def exchange(kept, method, path, body=None, headers=None):
    """One request on a connection that is kept: (status, body). Raises OSError or HTTPException."""
    kept.request(method, path, body, headers or {})
    answer = kept.getresponse()
    return answer.status, answer.read()


def call(port, method, path, body=None, headers=None, seconds=2.0):
    """One request on a connection of its own: (status, body), or None without an answer."""
    once = connection(port, seconds)
    try:
        return exchange(once, method, path, body, headers)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        once.close()


def parsed(body):
    """The JSON object of a body; empty when there is none."""
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def listing(port, prefix, query, seconds):
    """(key, value) of everything below a prefix, streamed. Raises OSError or HTTPException when it is cut short."""
    once = connection(port, seconds)
    try:
        once.request("GET", f"/v1/kv?prefix={prefix}&{query}", headers={"Accept": "application/x-ndjson"})
        answer = once.getresponse()
        if answer.status != 200:
            raise http.client.HTTPException(f"status {answer.status}: {answer.read().decode(errors='replace')}")
        rest = b""
        # Not line by line: http.client takes a stream that is cut short for its end then.
        while piece := answer.read(PIECE_BYTES):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                item = json.loads(line)
                yield item["key"], item.get("value")
    finally:
        once.close()
