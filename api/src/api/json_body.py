"""The JSON of a request's body: whatever it holds, other requests go on meanwhile."""

import asyncio

from pydantic import JsonValue

from api.errors import ParseError
from shared.wire.json_text import parse_json

LARGE_BYTES = 64 * 1024
"""Longer bodies are read and checked in a thread: it would take longer than others may wait."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


async def parsed(body: bytes) -> JsonValue:
    """Strict JSON within the bounds of `parse_json`; a byte order mark before it is skipped. Raises ParseError."""
    text = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        return await asyncio.to_thread(parse_json, text) if len(text) > LARGE_BYTES else parse_json(text)
    except ValueError as error:
        raise ParseError(f"the body cannot be read as JSON: {str(error)[:200]}") from None
