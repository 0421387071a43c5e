"""One client's open stream, as it is looked after."""

import asyncio
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from api.errors import ApiError
from api.hub.frame import Frame
from api.hub.subscription import Subscription
from api.tenants.caller import Caller
from shared.wire.schemas import State


def _now() -> float:
    return asyncio.get_running_loop().time()


@dataclass(slots=True, eq=False)
class Reader:
    """One client that reads one task's stream. Times are in seconds of the event loop's clock."""

    subscription: Subscription
    """What is ready for it."""
    model: str
    required: bool
    """The task is cancelled when it has no reader."""
    caller: Caller
    """Whose it is."""
    resumable: bool = False
    """Its client can go on elsewhere, behind the last event."""
    connection: "asyncio.Task[Any] | None" = field(default_factory=asyncio.current_task)
    """Serves it; cancelled when it is cut."""
    state: State | None = None
    """PENDING or RETRY while the task waits, as far as it has been told."""
    told: tuple[int | None, str | None] = (None, None)
    """Position and detail that it heard last."""
    opened: float = field(default_factory=_now)
    patience: float = field(default_factory=lambda: random.uniform(0.9, 1.1))
    """By how much its time is longer than that of others, so that those who came together do not go together."""
    quiet_since: float = field(default_factory=_now)
    """When something was last sent to it."""
    stuck_since: float | None = None
    """Since when it has not taken what is being sent to it."""
    cut: bool = False
    """It took nothing for too long."""
    gone: bool = False
    """The client has closed its connection."""
    dismissed: ApiError | None = None
    """Why this process closes it before its end."""
    ended: bool = False
    """It was given the end of the answer: nobody needs the task any more."""

    @property
    def task_id(self) -> str:
        return self.subscription.task_id

    def note(self, frames: Sequence[Frame]) -> None:
        """Remembers what the client is told: how its task stands, and that it has ended."""
        for frame in frames:
            if frame.type == b"status":
                event = json.loads(frame.data)
                self.state = event["state"] if event["state"] in ("PENDING", "RETRY") else None
                self.told = event.get("position"), event.get("detail")
            elif frame.type == b"end":
                self.ended = True

    def sending(self) -> None:
        """Something goes out to it from now on."""
        self.stuck_since = self.quiet_since = _now()

    def sent(self) -> None:
        """It has taken all of it."""
        self.stuck_since = None
