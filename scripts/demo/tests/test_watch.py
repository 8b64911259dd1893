"""When a cluster counts as whole, and which events are new."""

import copy
import unittest

from watch import Watch, unwell

NODES = 5


def statuses():
    members = [{"name": f"node{node}", "id": node, "role": "voter", "reachable": True, "lag_entries": 0} for node in range(NODES)]
    return [
        copy.deepcopy({
            "node": {"name": f"node{node}", "state": "follower" if node else "leader"},
            "cluster": {"leader": "node0", "term": 1, "members": members},
            "health": {"state": "healthy", "components": []},
        })
        for node in range(NODES)
    ]


class UnwellTest(unittest.TestCase):
    def changed(self, change):
        found = statuses()
        change(found)
        return unwell(found)

    def test_five_healthy_voters_are_whole(self):
        self.assertIsNone(unwell(statuses()))

    def test_whatever_is_missing_is_named(self):
        def silent(found):
            found[3] = None

        def learner(found):
            found[2]["cluster"]["members"][4]["role"] = "learner"

        for change, words in (
            (silent, "node3 does not answer"),
            (lambda found: found[1]["health"].update(state="degraded"), "node1 is degraded"),
            (lambda found: found[1]["node"].update(state="candidate"), "node1 is a candidate"),
            (learner, "node2 does not count 5 voters"),
            (lambda found: found[4]["cluster"].update(leader="node1"), "do not agree"),
            (lambda found: found[0]["cluster"]["members"][3].update(reachable=False), "node3 has not caught up"),
            (lambda found: found[0]["cluster"]["members"][3].update(lag_entries=99_999), "node3 has not caught up"),
        ):
            self.assertIn(words, self.changed(change) or "whole")


class EventsTest(unittest.TestCase):
    def setUp(self):
        self.seen = []
        self.watched = Watch([1], self.seen.append).nodes[0]

    def answer(self, *places):
        events = [
            {"seq": seq, "time_ms": time, "component": "store", "what": "restarted", "detail": "x"} for seq, time in places
        ]
        self.watched.take({"events": events, "last_seq": max((seq for seq, _ in places), default=0)})

    def test_an_event_that_is_told_twice_is_taken_once(self):
        self.answer((1, 10), (2, 20))
        self.answer((1, 10), (2, 20), (3, 20))
        self.assertEqual([event.time for event in self.seen], [0.01, 0.02, 0.02])

    def test_the_numbers_of_a_new_process_begin_anew(self):
        self.answer((8, 10), (9, 20))
        self.watched.take({"events": [], "last_seq": 1})
        self.answer((1, 30))
        self.assertEqual([event.time for event in self.seen], [0.01, 0.02, 0.03])


if __name__ == "__main__":
    unittest.main()
