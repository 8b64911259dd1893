"""What several nodes say at once is one line."""

import unittest

from chorus import ECHO_SECONDS, Chorus
from watch import Event


def event(node, detail, time=100.0, what="degraded"):
    return Event(node, time, "cluster", what, detail)


class ChorusTest(unittest.TestCase):
    def setUp(self):
        self.chorus = Chorus()

    def test_the_same_words_of_another_node_are_an_echo(self):
        self.assertIsNotNone(self.chorus.line(event(1, "node2 was away for 310 ms")))
        self.assertIsNone(self.chorus.line(event(3, "node2 was away for 312 ms", 100.4)))

    def test_another_member_is_not(self):
        self.chorus.line(event(1, "unreachable: node2"))
        self.assertIsNotNone(self.chorus.line(event(1, "unreachable: node4")))

    def test_later_they_are_news(self):
        self.chorus.line(event(1, "unreachable: node2"))
        self.assertIsNotNone(self.chorus.line(event(1, "unreachable: node2", 100.1 + ECHO_SECONDS)))

    def test_a_part_that_starts_is_no_news(self):
        self.assertIsNone(self.chorus.line(event(1, "", what="started")))

    def test_a_line_without_a_detail_ends_with_its_word(self):
        self.assertEqual(self.chorus.line(event(1, "", what="recovered")), ("cluster recovered", "good"))


if __name__ == "__main__":
    unittest.main()
