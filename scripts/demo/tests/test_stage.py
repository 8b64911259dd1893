"""How a step knows that its fault was noticed, and by what it was healed."""

import io
import time
import types
import unittest

import clusters
import stage
import steps
from view import View
from watch import Event, Watch


class StageTest(unittest.TestCase):
    def setUp(self):
        self.watch = Watch([], lambda event: None)
        cluster = types.SimpleNamespace(broken=None, ports=[1, 2], nodes=2)
        self.stage = stage.Stage(cluster, self.watch, None, View(list, out=io.StringIO()), "t")
        self.stage.begin("a fault")
        self.addCleanup(setattr, stage, "DETECT_SECONDS_MAX", stage.DETECT_SECONDS_MAX)
        stage.DETECT_SECONDS_MAX = 0.0

    def tell(self, node, what, component="store", after=0.5):
        self.watch.add(Event(node, self.stage.wall + after, component, what, "why"))

    def test_detected_is_the_first_event_that_fits(self):
        self.tell(1, "failed", after=-5.0)
        self.tell(1, "fault_injected", after=0.1)
        self.tell(0, "failed", after=0.2)
        self.tell(1, "failed", component="raft", after=0.3)
        self.tell(1, "failed", after=0.4)
        self.stage.detected(nodes={1}, components={"store"})
        self.assertAlmostEqual(self.stage.outcome.detected, 0.4, places=3)
        self.assertIn("node1: store failed: why", self.stage.outcome.noticed)

    def test_what_nobody_notices_is_a_step_that_failed(self):
        self.tell(1, "fault_injected")
        with self.assertRaisesRegex(clusters.Failed, "detected: not within"):
            self.stage.detected()

    def test_what_is_seen_from_outside_counts_where_no_event_tells(self):
        self.stage.detected(seen=lambda: "node1 leads")
        self.assertEqual(self.stage.outcome.noticed, "node1 leads")
        self.assertLess(self.stage.outcome.detected, time.monotonic())

    def test_the_healer_is_named_in_the_words_of_its_node(self):
        self.tell(0, "restarted")
        self.tell(1, "recovered", component="cluster")
        self.assertIsNone(self.stage.healer(1))
        self.tell(1, "restarted")
        self.assertEqual(self.stage.healer(1), "store restarted: why")

    def test_an_actor_is_missed_from_the_first_failure_on_its_node_to_its_successor(self):
        self.tell(0, "panicked", after=0.1)
        self.tell(1, "hung", component="raft", after=0.8)
        self.tell(1, "restarted", component="raft", after=0.81)
        with self.assertRaisesRegex(clusters.Failed, "dispatcher is rebuilt: not within"):
            self.stage.actor_rebuilt(1, "dispatcher")
        self.tell(1, "restarted", component="dispatcher", after=0.83)
        self.stage.actor_rebuilt(1, "dispatcher")
        self.assertAlmostEqual(self.stage.outcome.rebuilt, 0.03, places=3)

    def test_a_node_that_gave_up_is_noticed_from_the_fault_on(self):
        self.stage.cluster.gave_up = [(self.stage.moment - 1.0, 1), (self.stage.moment + 0.1, 0)]
        self.assertIsNone(steps.gave_up(self.stage, 1))
        self.assertEqual(steps.gave_up(self.stage, 0), "node0 ended itself")

    def test_a_node_that_no_restart_heals_ends_the_step(self):
        self.stage.cluster.broken = "node1 ended with exit code 1"
        with self.assertRaisesRegex(clusters.Failed, "exit code 1"):
            self.stage.until("anything", 60, lambda: None)


if __name__ == "__main__":
    unittest.main()
