"""Parameters of requests that go on with what is stored in ways that `create_message` does not have."""

from shared.wire.schemas import CreateMessageParams


class ThreadParams(CreateMessageParams):
    """`create_message`, and what else a door of stored answers says."""

    goes_on_from: str | None = None
    """The stored conversation whose messages stand in front. It grows only where `conversation_id` names it too."""
    keep: bool = False
    """Without a `conversation_id`: the conversation and its answer are kept under a name of their own (`kept_as`), for
    later requests to go on from."""
    instructions: str | None = None
    """A system message in front of everything, for this answer alone: no later one sees it."""
    truncate: bool = False
    """A conversation that is longer than the context loses its oldest turns, instead of being refused."""
    note: str = ""
    """What the door wants to find again with the task (`TaskRecord.note`)."""


def kept_as(task_id: str) -> str:
    """The name under which the conversation of such a task is kept."""
    return f"resp_{task_id.replace('-', '')}"
