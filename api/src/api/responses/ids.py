"""The ids of responses and of what is in them: each follows from the task's own, so every replica says the same."""

import uuid

from api.errors import TaskNotFound
from api.tasks.thread_params import kept_as
from shared.store.task_id import task_id_time


def response_id(task_id: str) -> str:
    """`resp_…`: also the name under which the response's conversation is kept."""
    return kept_as(task_id)


def task_of(response_id: str) -> str:
    """The task of a response. Raises TaskNotFound for what was never the id of one."""
    if not is_response_id(response_id):
        raise TaskNotFound(f"There is no response {response_id[:64]!r}.")
    return str(uuid.UUID(response_id.removeprefix("resp_")))


def is_response_id(text: str) -> bool:
    """Whether a response may have, or have had, this id."""
    try:
        task_id = str(uuid.UUID(text.removeprefix("resp_")))
    except ValueError:
        return False
    return kept_as(task_id) == text and task_id_time(task_id) is not None


def created_at(task_id: str) -> int:
    """Unix time, in whole seconds."""
    return int(task_id_time(task_id) or 0)


def item_id(kind: str, task_id: str, number: int) -> str:
    """`msg_…_0`: of the item at this place of the response's output."""
    return f"{kind}_{task_id.replace('-', '')}_{number}"


def response_of_item(item_id: str) -> str | None:
    """The response whose output has this item; None for an id that no response gave."""
    kind, _, rest = item_id.partition("_")
    digits, _, number = rest.partition("_")
    return f"resp_{digits}" if kind in ("msg", "fc", "rs") and number.isdigit() else None
