"""What the API counts."""

from typing import get_args

from api.metrics import JanitorAction, make_metrics


def test_what_will_be_counted_begins_at_zero_so_that_its_first_time_is_an_increase() -> None:
    value = make_metrics(["m"]).registry.get_sample_value
    assert value("headrace_tasks_accepted_total", {"model": "m"}) == 0
    assert value("headrace_lease_takeovers_total", {"model": "m"}) == 0
    for action in get_args(JanitorAction):
        assert value("headrace_janitor_actions_total", {"action": action}) == 0
    for outcome in ("behind", "cut"):
        assert value("headrace_slow_readers_total", {"outcome": outcome}) == 0


def test_two_applications_of_one_process_count_apart() -> None:
    one, other = make_metrics(["m"]), make_metrics(["m"])
    one.accepted.labels("m").inc()
    assert other.registry.get_sample_value("headrace_tasks_accepted_total", {"model": "m"}) == 0


def test_there_is_no_series_for_the_time_at_which_a_counter_was_made() -> None:
    names = {sample.name for family in make_metrics(["m"]).registry.collect() for sample in family.samples}
    assert not [name for name in names if name.endswith("_created")]
