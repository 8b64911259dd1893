"""Which node is asked, and what an answer allows to conclude."""

import unittest

import history
import load


class TurnsTest(unittest.TestCase):
    def setUp(self):
        self.now = 100.0
        self.turns = load.Turns(3, clock=lambda: self.now)

    def taken(self, count):
        return [self.turns.take() for _ in range(count)]

    def test_nodes_take_turns(self):
        self.assertEqual(self.taken(4), [0, 1, 2, 0])

    def test_a_node_that_failed_is_left_alone_for_a_while(self):
        self.turns.failed(1)
        self.assertEqual(self.taken(4), [0, 2, 0, 2])

    def test_afterwards_one_client_tries_it_until_it_answers(self):
        self.turns.failed(1)
        self.now += load.SUSPENDED_SECONDS
        self.assertEqual(self.taken(5), [0, 1, 2, 0, 2])
        self.turns.answered(1)
        self.assertIn(1, self.taken(3))

    def test_when_all_failed_somebody_is_asked_all_the_same(self):
        for node in range(3):
            self.turns.failed(node)
        self.assertEqual(sorted(self.taken(3)), [0, 1, 2])


class OutcomeTest(unittest.TestCase):
    def test_only_a_200_is_acknowledged_and_only_a_no_is_refused(self):
        self.assertEqual(load.outcome(200, b'{"revision":1}'), history.ACKNOWLEDGED)
        self.assertEqual(load.outcome(503, b'{"applied":"no"}'), history.REFUSED)
        for status, body in ((504, b'{"applied":"unknown"}'), (500, b"{}"), (502, b"not json"), (202, b"{}")):
            self.assertEqual(load.outcome(status, body), history.UNKNOWN)


if __name__ == "__main__":
    unittest.main()
