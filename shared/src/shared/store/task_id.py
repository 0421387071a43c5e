"""Ids of tasks."""

import secrets
import time
import uuid


def new_task_id() -> str:
    """A UUID of version 7: it carries the time of its making, so that an unknown id can be told from an expired one."""
    milliseconds = time.time_ns() // 1_000_000
    value = milliseconds << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def task_id_time(task_id: str) -> float | None:
    """Unix time in seconds at which `new_task_id` made this id; None for anything that it did not make."""
    try:
        value = uuid.UUID(task_id)
    except ValueError:
        return None
    return (value.int >> 80) / 1000 if value.version == 7 and str(value) == task_id else None
