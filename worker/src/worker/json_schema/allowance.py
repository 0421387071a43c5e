"""How much work a client's schema may cause, counted and not timed: the same verdict on every machine."""

from dataclasses import dataclass


class CannotBeJudged(Exception):
    """A schema or a document is beyond what is worked out here; the message says which and why."""


@dataclass(slots=True)
class Allowance:
    """Work that is left to one task, in units of about a microsecond of the worst that was measured."""

    units: int
    refusal: str = ""
    """Why the document at hand was not looked at in every place: no verdict counts."""

    def pay(self, units: int, what: str) -> bool:
        """Whether to go on; `what` is too much if there is not so much left."""
        self.units -= units
        if self.units < 0:
            self.refuse(f"{what} would take too long")
        return not self.refusal

    def refuse(self, why: str) -> None:
        """The first reason counts."""
        self.refusal = self.refusal or why
