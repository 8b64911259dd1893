"""What runs the nodes starts again what was killed or asks for it, and nothing else."""

import os
import subprocess
import tempfile
import time
import unittest

import processes

NODE = 3
WAIT_SECONDS_MAX = 10


class Stubs(processes.Processes):
    """In place of nodes: processes that wait to be killed, or end at once with the next code of `codes`."""

    def __init__(self, directory, codes=()):
        self.codes = list(codes)
        self.spawned = 0
        self.notes = []
        super().__init__("", directory, lambda node, text: self.notes.append(text))
        for node in range(self.nodes):
            os.makedirs(self.data(node))
        self.processes = [None] * NODE + [self.spawn(NODE)]

    def spawn(self, node):
        self.spawned += 1
        self.born[node] = time.monotonic()
        command = ["sh", "-c", f"exit {self.codes.pop(0)}"] if self.codes else ["sleep", "60"]
        return subprocess.Popen(command)

    def tend_once(self):
        """Waits for the node's end, then does what the thread would do in time."""
        code = self.processes[NODE].wait(timeout=WAIT_SECONDS_MAX)
        self.tend_ended(NODE, code)


class SupervisorTest(unittest.TestCase):
    def stubs(self, codes=()):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        stubs = Stubs(directory.name, codes)
        self.addCleanup(lambda: (stubs.processes[NODE].kill(), stubs.processes[NODE].wait()))
        return stubs

    def test_a_node_that_ends_with_70_is_started_again_after_a_growing_pause(self):
        stubs = self.stubs([processes.UNFIT, processes.UNFIT])
        pauses = []
        for _ in range(2):
            stubs.tend_once()
            self.assertIn(NODE, stubs.due, "not at once")
            pauses.append(stubs.backoff[NODE])
            stubs.due[NODE] = (0.0, False)
            stubs.tend_once()
        self.assertEqual(stubs.spawned, 3)
        self.assertEqual([node for _, node in stubs.gave_up], [NODE, NODE])
        self.assertEqual(pauses[1], 2 * pauses[0])
        self.assertIsNone(stubs.broken)

    def test_a_node_that_is_killed_is_started_again_with_its_disk(self):
        stubs = self.stubs()
        stubs.kill([NODE], 0.0)
        stubs.tend_once()
        self.assertEqual(stubs.spawned, 2)
        self.assertTrue(os.path.isdir(stubs.data(NODE)))
        self.assertEqual(stubs.gave_up, [])

    def test_a_node_that_is_wiped_is_started_again_without(self):
        stubs = self.stubs()
        stubs.kill([NODE], 0.0, wiped=True)
        stubs.tend_once()
        self.assertEqual(stubs.spawned, 2)
        self.assertFalse(os.path.exists(stubs.data(NODE)))

    def test_a_node_that_is_away_is_not_started_too_early(self):
        stubs = self.stubs()
        stubs.kill([NODE], 3600.0)
        stubs.tend_once()
        self.assertEqual(stubs.spawned, 1)

    def test_a_node_that_ends_in_another_way_stays_down_and_is_named(self):
        stubs = self.stubs([1])
        stubs.tend_once()
        self.assertEqual(stubs.spawned, 1)
        self.assertIn("node3 ended with exit code 1", stubs.broken)


if __name__ == "__main__":
    unittest.main()
