"""The comparison with a committed result."""

from pathlib import Path

from bench.regression import compare, regressions
from bench.results_file import Result, load


def result(value: float, *, target: float | None = None, at_least: bool = True, unit: str = "") -> Result:
    made = Result("experiment", "command", machine={})
    made.add_ratio("a ratio", value, target, at_least=at_least, unit=unit)
    return made


def test_a_ratio_may_be_a_little_worse_but_not_much() -> None:
    assert not list(regressions(result(0.9), result(1.0)))
    assert list(regressions(result(0.7), result(1.0)))
    assert not list(regressions(result(1.1, at_least=False), result(1.0, at_least=False)))
    assert list(regressions(result(1.3, at_least=False), result(1.0, at_least=False)))


def test_a_ratio_that_meets_its_target_is_no_regression() -> None:
    assert not list(regressions(result(6.5, target=6.0), result(10.0, target=6.0)))


def test_times_are_not_compared() -> None:
    assert not list(regressions(result(90.0, at_least=False, unit="ms"), result(9.0, at_least=False, unit="ms")))


def test_results_come_back_from_their_files_as_they_were(tmp_path: Path) -> None:
    new, old = result(0.5), result(1.0)
    new.add_arm("arm", [{"x": 1.0}, {"x": 3.0}, {"x": 2.0}])
    assert load(new.save(tmp_path / "new")) == new
    old.save(tmp_path / "old")
    assert [str(each) for each in compare(tmp_path / "new", tmp_path / "old")] == [
        "experiment: a ratio was 1 and is 0.5"
    ]
