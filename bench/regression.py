"""Compares the ratios of a run with a committed one: times differ between machines, ratios should not."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.results_file import Ratio, Result, load

TOLERANCE = 0.2
"""By how much a ratio may be worse: what repeated runs of one commit differ by on a shared machine of two cores."""


@dataclass(frozen=True)
class Regression:
    """A ratio that is worse than it was."""

    experiment: str
    name: str
    was: float
    now: float

    def __str__(self) -> str:
        return f"{self.experiment}: {self.name} was {self.was:g} and is {self.now:g}"


def regressions(new: Result, old: Result, tolerance: float = TOLERANCE) -> Iterator[Regression]:
    """The true ratios in both results that are worse now by more than the tolerance and miss their target, if any."""
    before = {ratio.name: ratio for ratio in old.ratios}
    for ratio in new.ratios:
        was = before.get(ratio.name)
        if was is not None and not ratio.unit and not ratio.met and _worse(ratio, was, tolerance):
            yield Regression(new.experiment, ratio.name, was.value, ratio.value)


def _worse(now: Ratio, was: Ratio, tolerance: float) -> bool:
    if now.at_least:
        return now.value < was.value * (1 - tolerance)
    return now.value > was.value * (1 + tolerance)


def compare(new: Path, old: Path) -> list[Regression]:
    """All regressions of the results in folder `new` against those in `old`."""
    return [
        regression
        for path in sorted(new.glob("*.json"))
        if (old / path.name).exists()
        for regression in regressions(load(path), load(old / path.name))
    ]
