"""Messages of the cluster on one line."""

import json

import pytest

from api.cluster.one_line import LONGEST_LINE, last_line, one_line


def test_a_short_text_is_one_line() -> None:
    assert one_line("  0/3 nodes\n\tare available.  ") == "0/3 nodes are available."
    assert one_line("x" * LONGEST_LINE) == "x" * LONGEST_LINE


def test_of_a_long_text_both_ends_are_kept() -> None:
    text = 'Failed to pull image "registry.example.com/headrace:1": ' + "rpc error: " * 50 + "401 unauthorized"
    line = one_line(text)
    assert len(line) <= LONGEST_LINE
    assert line.startswith('Failed to pull image "registry.example.com')
    assert line.endswith("401 unauthorized")
    assert " … " in line


@pytest.mark.parametrize("longest", range(10, 60))
def test_no_line_is_longer_than_it_may_be(longest: int) -> None:
    assert len(one_line("word " * 40, longest)) <= longest


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("first\nlast\n\n", "last"),
        (json.dumps({"level": "ERROR", "message": "The port is not free."}), "The port is not free."),
        ('starting\n{"message": "out of memory"}\n', "out of memory"),
        ('{"no message": 1}', '{"no message": 1}'),
        ('{"cut off', '{"cut off'),
        ('{"message": 7}', "7"),
        ("[1, 2]", "[1, 2]"),
    ],
)
def test_of_a_log_the_last_message_counts(log: str, line: str) -> None:
    assert last_line(log) == line
