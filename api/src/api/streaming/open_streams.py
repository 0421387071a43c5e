"""How many streams each key has open at this replica, and how many it may have."""

from collections import Counter

from prometheus_client import Counter as Metric

from api.errors import TooManyStreams
from api.tenants.caller import Caller

RETRY_SECONDS = 5
"""Nobody knows when a client closes one."""


class OpenStreams:
    """Counted in this process alone: what they take, memory and sockets, is its own, and what dies with it needs no
    clearing up.
    """

    def __init__(self, *, most: int, refused: Metric) -> None:
        """`most`: of a key whose policy does not say. `refused` counts those that were one too many."""
        self._most = most
        self._refused = refused
        self._open: Counter[tuple[str, str]] = Counter()

    def check(self, caller: Caller) -> None:
        """Raises TooManyStreams where the caller may open none now."""
        limit = caller.policy.limits.open_streams
        most = self._most if limit is None else limit
        if self._open[caller.tenant, caller.key_id] >= most:
            self._refused.inc()
            raise TooManyStreams(
                f"{most} streams of this API key are open at this replica; no more are allowed",
                retry_after=RETRY_SECONDS,
                limit="openStreams",
            )

    def enter(self, caller: Caller) -> None:
        """The caller has one more from now on. Raises TooManyStreams."""
        self.check(caller)
        self._open[caller.tenant, caller.key_id] += 1

    def leave(self, caller: Caller) -> None:
        """The caller has one less."""
        key = caller.tenant, caller.key_id
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]
