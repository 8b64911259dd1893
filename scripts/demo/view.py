"""The time line, and below it on a terminal a few lines that are drawn anew four times a second.

Without a terminal only whole lines are printed, without colour. Knows nothing of the cluster.
"""

import os
import shutil
import sys
import threading
import time

DRAW_SECONDS = 0.25
WIDTH_MIN = 40
TONES = {"plain": "", "dim": "2", "good": "32", "bad": "31", "warn": "33", "head": "1;36"}
BARS = " ▁▂▃▄▅▆▇█"


def bars(values, most):
    """A row of bars, one a value, each up to `most` high."""
    top = len(BARS) - 1
    return "".join(BARS[0 if value <= 0 else max(1, min(top, round(top * value / most)))] for value in values)


def seconds(value):
    """A duration for people: 340 ms, 2.1 s."""
    if value is None:
        return "-"
    return f"{value * 1000:.0f} ms" if value < 0.9995 else f"{value:.1f} s"


class View:
    """A context manager. `frame()` answers the live lines as (text, tone); it is called by a thread of the view."""

    def __init__(self, frame, out=sys.stdout):
        self.frame = frame
        self.out = out
        self.live = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.colour = self.live and not os.environ.get("NO_COLOR")
        self.began = time.monotonic()
        self.lock = threading.Lock()
        self.over = threading.Event()
        # Live lines on the screen below the time line.
        self.shown = 0
        self.thread = threading.Thread(target=self.run, name="view", daemon=True)

    def __enter__(self):
        if self.live:
            self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        if self.live:
            self.thread.join(timeout=10 * DRAW_SECONDS)
        with self.lock:
            self.erase()
            self.out.flush()

    def say(self, who, text, tone="plain"):
        """One line of the time line."""
        self.line(f"{time.monotonic() - self.began:7.2f} s  {who:<8} {text}", tone)

    def line(self, text, tone="plain"):
        with self.lock:
            self.erase()
            self.out.write(self.painted(text, tone) + "\n")
            self.out.flush()

    def painted(self, text, tone):
        code = TONES[tone]
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and code else text

    def erase(self):
        if self.shown:
            self.out.write(f"\x1b[{self.shown}F\x1b[J")
            self.shown = 0

    def run(self):
        while not self.over.wait(DRAW_SECONDS):
            lines = self.frame()
            # A line that wrapped would be two lines, and the next erase one short.
            width = max(WIDTH_MIN, shutil.get_terminal_size().columns - 1)
            with self.lock:
                if self.over.is_set():
                    return
                self.erase()
                for text, tone in lines:
                    self.out.write(self.painted(text[:width], tone) + "\n")
                self.shown = len(lines)
                self.out.flush()
