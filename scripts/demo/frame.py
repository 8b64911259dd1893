"""The live lines: the fault, each node as it was last seen, and the load of the last minute."""

import time

import history
from view import bars, seconds

MINUTE_SECONDS = 60
REASON_CHARACTERS_MAX = 60
HEALTH_TONES = {"healthy": "plain", "degraded": "warn", "failed": "bad"}


def node_line(node, status):
    if status is None:
        return f"  node{node}  does not answer", "bad"
    health = status["health"]
    member = next((each for each in status["cluster"]["members"] if each["name"] == status["node"]["name"]), None)
    role = status["node"]["state"]
    if role == "follower" and member and member["role"] == "learner":
        role = "learner"
    words = [f"  node{node}  {role:<9} {health['state']:<9}", f"term {status['cluster']['term']:<4}"]
    words.append(f"applied {status['raft']['applied']:<9,}")
    for component in health["components"]:
        if component["state"] != "healthy":
            words.append(f"{component['name']}: {(component['reason'] or component['state'])[:REASON_CHARACTERS_MAX]}")
        elif component["restarts"]:
            words.append(f"{component['name']} restarted {component['restarts']}×")
    return " ".join(words), HEALTH_TONES.get(health["state"], "bad")


def load_lines(load):
    if load.begin is None:
        return []
    now = load.end or time.monotonic()
    begin = max(load.begin, now - MINUTE_SECONDS)
    lately = [request for request in load.recent(begin) if request.state == history.ACKNOWLEDGED]
    each = [0] * MINUTE_SECONDS
    for request in lately:
        if request.ended < now:
            each[min(MINUTE_SECONDS - 1, int(now - request.ended))] += 1
    found = history.slots(lately, begin, now - history.SLOT_SECONDS)
    empty = found.total - found.covered
    return [
        (f"  writes a second, last minute |{bars(each[::-1], load.rate)}| {each[1]}/s now", "plain"),
        (f"  {empty} of {found.total} slots of 100 ms without one; the longest gap {seconds(found.gap)}",
         "warn" if empty else "good"),
    ]


def step_line(stage):
    outcome = stage.outcome if stage else None
    if outcome is None or outcome.failure:
        return "", "plain"
    if outcome.whole is not None:
        return f"  healed: {outcome.title}", "good"
    known = "served again" if outcome.back is not None else "detected" if outcome.detected is not None else "not detected yet"
    return f"  for {time.monotonic() - stage.moment:.1f} s: {outcome.title}: {known}", "warn"


def lines(watch, load, stage):
    found = [step_line(stage), *(node_line(node, status) for node, status in enumerate(watch.statuses()))]
    return found + load_lines(load)
