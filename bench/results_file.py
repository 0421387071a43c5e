"""What an experiment found: medians per arm, ratios with their targets, the machine; one JSON file each."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench.measures import Metrics, medians
from bench.processes import machine

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Ratio:
    """A number that is compared: with its target, and with the same number of an earlier run."""

    name: str
    value: float
    target: float | None = None
    at_least: bool = True
    """Whether more is better."""
    unit: str = ""
    """Empty for a true ratio; distances in `ms` or `s` depend on the machine and are not checked for regressions."""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target


@dataclass
class Result:
    """Of one experiment."""

    experiment: str
    command: str
    repetitions: int = 0
    arms: dict[str, Metrics] = field(default_factory=dict)
    ratios: list[Ratio] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, str | int | float] = field(default_factory=machine)

    def add_arm(self, name: str, repetitions: list[Metrics]) -> None:
        """Takes the median of each metric."""
        self.arms[name] = medians(repetitions)
        self.repetitions = max(self.repetitions, len(repetitions))
        if any(repetition.get("generator_bound") for repetition in repetitions):
            self.notes.append(f"{name}: the load generator may have been the bottleneck in a repetition.")

    def add_ratio(
        self, name: str, value: float, target: float | None = None, *, at_least: bool = True, unit: str = ""
    ) -> None:
        self.ratios.append(Ratio(name, round(value, 4), target, at_least, unit))

    def save(self, folder: Path = RESULTS) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.experiment}.json"
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
        return path


def load(path: Path) -> Result:
    """Reads what `save` wrote."""
    stored = json.loads(path.read_text())
    ratios = [Ratio(**ratio) for ratio in stored.pop("ratios")]
    return Result(**stored, ratios=ratios)
