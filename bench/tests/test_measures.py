"""The bench's arithmetic."""

import pytest

from bench.measures import Bound, Timeline, cpu_per_1000, medians, percentile, ratio, summary


def answer(sent: float, *arrivals: tuple[float, int], ended: float = 0.0, error: str = "") -> Timeline:
    return Timeline(sent, sent + 0.01, list(arrivals), ended or arrivals[-1][0], error)


def test_percentiles_interpolate_between_neighbours() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 50) == 2.5
    assert percentile([1.0, 2.0, 3.0], 100) == 3.0
    assert percentile([7.0], 99) == 7.0
    assert percentile([], 50) == 0.0


def test_tokens_that_come_in_one_piece_share_its_gap() -> None:
    timeline = answer(0.0, (1.0, 1), (1.3, 4), (1.4, 5))
    assert timeline.gaps() == pytest.approx([0.1, 0.1, 0.1, 0.1])
    assert timeline.per_token == pytest.approx(0.1)
    assert timeline.tokens == 5


def test_an_answer_in_one_piece_has_no_time_per_token() -> None:
    assert answer(0.0, (2.0, 30)).per_token is None
    assert answer(0.0, (2.0, 30)).gaps() == []


def test_a_summary_counts_the_tokens_of_answered_requests_only() -> None:
    timelines = [answer(0.0, (0.5, 1), (1.5, 11)), answer(1.0, (1.2, 4), error="status 500"), Timeline(2.0)]
    metrics = summary(timelines, 2.0, Bound(first_token=1.0, per_token=0.2))
    assert metrics["tokens"] == 11
    assert metrics["tokens_per_s"] == 5.5
    assert metrics["errors"] == 2
    assert metrics["first_token_ms_p50"] == 500.0
    assert metrics["per_token_ms_p50"] == 100.0
    assert metrics["submit_ms_p50"] == 10.0
    assert metrics["good_requests_per_s"] == 0.5


def test_a_request_is_good_only_when_it_keeps_both_bounds() -> None:
    bound = Bound(first_token=1.0, per_token=0.1)
    assert bound.kept_by(answer(0.0, (1.0, 1), (1.5, 11)))
    assert not bound.kept_by(answer(0.0, (1.1, 1), (1.5, 11)))
    assert not bound.kept_by(answer(0.0, (1.0, 1), (3.0, 11)))
    assert not bound.kept_by(Timeline(0.0))


def test_medians_are_taken_per_metric_over_the_repetitions_that_have_it() -> None:
    assert medians([{"a": 1.0}, {"a": 9.0, "b": 5.0}, {"a": 2.0}]) == {"a": 2.0, "b": 5.0}


def test_a_ratio_is_the_median_over_pairs_of_neighbours() -> None:
    # The second pair met a slow minute, which both saw: the ratio does not.
    ours = [{"x": 100.0}, {"x": 50.0}, {"x": 98.0}]
    theirs = [{"x": 50.0}, {"x": 25.0}, {"x": 49.5}]
    assert ratio(ours, theirs, "x") == 2.0


def test_cpu_is_given_per_thousand_tokens() -> None:
    assert cpu_per_1000({"api": 2.0}, 4000) == {"cpu_s_per_1000_tokens_api": 0.5}
