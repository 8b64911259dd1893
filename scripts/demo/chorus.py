"""Which events are worth a line: what several nodes say at once is told once, and that a part has started not at all."""

import re
import threading

# The same words within this time are an echo.
ECHO_SECONDS = 3.0
TOLD_MAX = 256
TONES = {
    "restarted": "good", "recovered": "good", "rebuilt": "good", "peer_back": "good", "degraded": "warn",
    "leader_changed": "warn", "peer_unreachable": "warn", "panicked": "bad", "hung": "bad", "failed": "bad", "escalated": "bad", "quarantined": "bad",
    "fault_injected": "dim", "fault_cleared": "dim",
}


class Chorus:
    """May be asked by several threads."""

    def __init__(self):
        self.lock = threading.Lock()
        # Words without their figures -> when they were said last.
        self.told = {}

    def line(self, event):
        """(text, tone) of an event, or None for an echo."""
        if event.what == "started":
            return None
        words = f"{event.component} {event.what.replace('_', ' ')}" + (f": {event.detail}" if event.detail else "")
        # Members have names with figures: only measures are left out.
        same = re.sub(r"\b\d+ (ms|s|%)", "", words)
        with self.lock:
            last = self.told.get(same)
            # The latest, also in an echo: the nodes' words come in any order.
            self.told[same] = max(event.time, last or event.time)
            if len(self.told) > TOLD_MAX:
                del self.told[min(self.told, key=self.told.get)]
        if last is not None and abs(event.time - last) <= ECHO_SECONDS:
            return None
        return words, TONES.get(event.what, "plain")
