"""How events look on the wire of `/v1`."""

from pydantic_core import to_json


def data(value: object) -> bytes:
    """One event of a stream as OpenAI's clients read it: without a name, an id or `retry:`."""
    return b"data: %b\n\n" % to_json(value)
