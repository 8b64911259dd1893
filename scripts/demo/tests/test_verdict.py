"""When the demo passes, and what it says when it does not."""

import unittest

import history
from history import ACKNOWLEDGED, UNKNOWN, Request
from stage import Outcome
from verdict import Verdict

TOKEN = "t"
NODES = 5
REQUESTS = [Request(f"k{number}", number / 10, number / 10 + 0.02, ACKNOWLEDGED, 1) for number in range(20)]
UNSURE = Request("unsure", 0.0, 9.9, UNKNOWN, 20)


def healed(title="a fault", whole=3.0, lasts=0.0):
    return Outcome(title, 1.0, lasts, detected=0.5, back=1.0, whole=whole, healed_by="x", gap=0.3)


def judged(missing=(), also=(), outcomes=(), planned=None, failures=(), requests=(*REQUESTS, UNSURE)):
    """The verdict on nodes that hold every acknowledged write but, on the last one, those named in `missing`."""
    contents = []
    for node in range(NODES):
        there = [request.key for request in requests if request.state == ACKNOWLEDGED]
        if node == NODES - 1:
            there = [key for key in there if key not in missing] + list(also)
        contents.append(history.check(requests, [(key, history.value_of(key, TOKEN)) for key in there], TOKEN))
    slots = history.slots(requests, 0.0, 2.0)
    planned = len(outcomes) if planned is None else planned
    return Verdict(list(requests), [], slots, contents, list(outcomes), planned, list(failures))


def text(verdict):
    return "\n".join(line for line, _ in verdict.lines())


class VerdictTest(unittest.TestCase):
    def test_it_passes_when_nothing_is_lost_and_everything_healed(self):
        verdict = judged(outcomes=[healed()])
        self.assertTrue(verdict.passed, verdict.reasons())
        self.assertIn("none lost", text(verdict))
        self.assertIn("passed:", text(verdict))

    def test_one_lost_write_on_one_node_fails_it(self):
        verdict = judged(missing=["k7"], outcomes=[healed()])
        self.assertFalse(verdict.passed)
        self.assertEqual(verdict.lost, 1)
        self.assertIn("1 lost", text(verdict))
        self.assertIn("node4: 1 lost: k7", text(verdict))
        self.assertNotIn("passed:", text(verdict))
        self.assertFalse(verdict.to_json()["passed"])

    def test_an_unknown_write_may_take_effect_on_all_nodes_but_not_on_one(self):
        self.assertTrue(judged().passed)
        verdict = judged(also=["unsure"])
        self.assertFalse(verdict.passed)
        self.assertIn("do not hold the same", text(verdict))

    def test_actors_are_told_by_the_slowest(self):
        one, other = healed(), healed()
        self.assertNotIn("panicked or hung", text(judged(outcomes=[one, other])))
        one.rebuilt, other.rebuilt, other.detected = 0.022, 0.041, 0.8
        told = text(judged(outcomes=[one, other, healed()]))
        self.assertIn("2 panicked or hung: detected within 800 ms, another in place 41 ms later", told)

    def test_a_step_that_did_not_heal_fails_it(self):
        broken = Outcome("a fault", 1.0, failure="the cluster is whole: not within 90 s")
        self.assertFalse(judged(outcomes=[broken]).passed)

    def test_a_step_that_did_not_run_fails_it(self):
        self.assertFalse(judged(outcomes=[healed()], planned=2).passed)

    def test_a_node_that_cannot_be_asked_fails_it(self):
        self.assertFalse(judged(failures=["node3 could not be asked"]).passed)

    def test_nothing_acknowledged_fails_it(self):
        self.assertFalse(judged(requests=[UNSURE]).passed)

    def test_requests_and_slots_are_percentages(self):
        verdict = judged()
        self.assertAlmostEqual(verdict.served_percent, 100 * 20 / 21)
        self.assertAlmostEqual(verdict.available_percent, 100.0)
        self.assertIn("missed", text(verdict))

    def test_the_slowest_recovery_leaves_out_how_long_the_fault_lasted(self):
        verdict = judged(outcomes=[healed("long", whole=6.0, lasts=5.0), healed("slow", whole=2.0)])
        self.assertEqual(verdict.slowest.title, "slow")
        self.assertAlmostEqual(verdict.to_json()["slowest_recovery_s"], 2.0)


if __name__ == "__main__":
    unittest.main()
