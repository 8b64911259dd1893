"""What is concluded from the answers that a load had."""

import unittest

import history
from history import ACKNOWLEDGED, REFUSED, UNKNOWN, Request

TOKEN = "t"


def request(key, state=ACKNOWLEDGED, due=0.0, ended=0.05):
    return Request(key, due, ended, state, 1)


def held(*keys):
    return [(key, history.value_of(key, TOKEN)) for key in keys]


class SlotsTest(unittest.TestCase):
    def test_a_slot_counts_once_and_only_by_an_acknowledged_write(self):
        found = history.slots(
            [
                request("a", ended=10.01), request("b", ended=10.09), request("c", ended=10.35),
                request("d", UNKNOWN, ended=10.15), request("e", REFUSED, ended=10.25),
            ],
            10.0, 10.4,
        )
        self.assertEqual((found.total, found.covered), (4, 2))
        self.assertAlmostEqual(found.gap, 0.26)

    def test_what_lies_outside_is_not_counted(self):
        found = history.slots([request("a", ended=9.95), request("b", ended=10.2), request("c", ended=10.25)], 10.0, 10.29)
        self.assertEqual((found.total, found.covered), (2, 0))
        self.assertAlmostEqual(found.gap, 0.2)

    def test_the_gap_reaches_to_both_ends(self):
        self.assertAlmostEqual(history.slots([request("a", ended=1.0)], 0.0, 5.0).gap, 4.0)
        self.assertAlmostEqual(history.slots([request("a", ended=4.5)], 0.0, 5.0).gap, 4.5)

    def test_served_counts_from_when_a_request_was_due(self):
        requests = [
            request("a", due=0.0, ended=1.9), request("b", due=0.0, ended=2.1), request("c", REFUSED), request("d", UNKNOWN),
        ]
        self.assertEqual(history.served(requests), 1)


class CheckTest(unittest.TestCase):
    def test_all_that_was_acknowledged_is_there(self):
        found = history.check([request("a"), request("b"), request("c", UNKNOWN), request("d", UNKNOWN)], held("a", "b", "d"), TOKEN)
        self.assertTrue(found.sound)
        self.assertEqual(found.effective, {"d"})

    def test_an_acknowledged_write_that_is_missing_is_lost(self):
        found = history.check([request("a"), request("b")], held("a"), TOKEN)
        self.assertEqual(found.lost, ["b"])
        self.assertFalse(found.sound)

    def test_another_value_is_wrong(self):
        found = history.check([request("a")], [("a", history.value_of("a", "other"))], TOKEN)
        self.assertEqual(found.wrong, ["a"])
        self.assertFalse(found.sound)

    def test_a_key_that_nobody_wrote_is_wrong(self):
        self.assertEqual(history.check([], held("z"), TOKEN).wrong, ["z"])

    def test_a_refused_write_must_not_appear(self):
        found = history.check([request("a", REFUSED)], held("a"), TOKEN)
        self.assertEqual(found.ghosts, ["a"])
        self.assertFalse(found.sound)


if __name__ == "__main__":
    unittest.main()
