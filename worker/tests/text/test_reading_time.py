from time import thread_time

import pytest

from worker.text.reading_time import MOST_LOOKED_AT, SECONDS, ReadingTime, TimedRegex

SLOW, BAIT = "(a|a)*b", "a" * 40 + "cb"


def test_what_is_spent_is_spent_for_the_whole_answer() -> None:
    time = ReadingTime()
    began = thread_time()
    for _ in range(3):
        with time.running(), pytest.raises(TimeoutError):
            TimedRegex.compile(SLOW).search(BAIT)
    assert thread_time() - began < 2 * SECONDS
    with ReadingTime().running():
        assert TimedRegex.compile("c").search(BAIT)


def test_each_character_of_the_answer_brings_some_more() -> None:
    time = ReadingTime()
    with time.running(), pytest.raises(TimeoutError):
        TimedRegex.compile(SLOW).search(BAIT)
    with time.running(1000):
        assert TimedRegex.compile("c").search(BAIT)


def test_nothing_is_matched_for_nobody() -> None:
    with pytest.raises(TimeoutError):
        TimedRegex.compile("a").search("a")


def test_strings_that_are_put_back_one_by_one_are_few_or_short() -> None:
    with ReadingTime().running():
        assert TimedRegex.sub("<(.*?)>", lambda match: str(match[1]), "<a>b<c>") == "abc"
        text = "<>" * 30_000
        assert len(text) * 30_000 > MOST_LOOKED_AT
        with pytest.raises(TimeoutError):
            TimedRegex.sub("<(.*?)>", lambda match: str(match[1]), text)
