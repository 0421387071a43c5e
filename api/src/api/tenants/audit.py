"""The log of who did what: a line of the logger `api.audit` for each task or stored conversation that is made or read.

Ids and names only, never what was asked or answered. `HEADRACE_LOG_LEVELS=api.audit=WARNING` switches it off.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from api.errors import ApiError
from api.tenants.caller import Caller

log = logging.getLogger("api.audit")

LONGEST_ID = 64

Action = Literal["create", "read", "stream", "stream_token", "cancel", "delete", "keep", "change", "usage"]


@contextmanager
def noted(action: Action, caller: Caller, task_id: str = "", **more: str) -> Iterator[None]:
    """Whether the caller could do what is tried inside."""
    try:
        yield
    except ApiError as error:
        refused(action, caller, error, task_id, **more)
        raise
    done(action, caller, task_id, **more)


def done(action: Action, caller: Caller, task_id: str = "", **more: str) -> None:
    """The caller did this."""
    log.info("%s", action, extra=_fields(action, caller, task_id=task_id, **more))


def refused(action: Action, caller: Caller, error: ApiError, task_id: str = "", **more: str) -> None:
    """The caller was not let do this. What is the server's own fault is no refusal, and told elsewhere."""
    if error.status < 500:
        reason = type(error).__name__
        log.info(
            "%s refused: %s", action, reason, extra=_fields(action, caller, task_id=task_id, reason=reason, **more)
        )


def _fields(action: Action, caller: Caller, **more: str) -> dict[str, str]:
    # What a client sends as an id may be anything, and must not look like a line of its own.
    named = {name: repr(value)[1:-1][:LONGEST_ID] for name, value in more.items() if value}
    whose = {"key_id": caller.key_id} if caller.key_id else {}
    return {"action": action, "tenant": caller.tenant, **whose, **named}
