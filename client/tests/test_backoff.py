"""The pauses between tries."""

import itertools

import pytest

from headrace import backoff


@pytest.fixture(autouse=True)
def _short_backoff() -> None:
    """Not here: the real one."""


def test_pauses_double_up_to_a_bound_and_are_never_in_step() -> None:
    pauses = [list(itertools.islice(backoff.delays(), 12)) for _ in range(50)]
    for number, at_once in enumerate(zip(*pauses, strict=True)):
        ceiling = min(backoff.FIRST_SECONDS * 2**number, backoff.LONGEST_SECONDS)
        assert ceiling / 2 <= min(at_once) < max(at_once) <= ceiling
        assert len(set(at_once)) > 10
