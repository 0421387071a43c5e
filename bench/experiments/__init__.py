"""One file per question; each returns a Result."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    repetitions: int
    size: float
    """Multiplies numbers of requests."""

    def count(self, full: int, least: int = 1) -> int:
        """So many in a full run, fewer in a quick one."""
        return max(least, round(full * self.size))


FULL = Scale(repetitions=3, size=1.0)
QUICK = Scale(repetitions=3, size=0.25)
