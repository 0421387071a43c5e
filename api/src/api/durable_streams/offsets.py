"""Where a reader is, in the protocol's words: offsets into a log, and cursors, which keep caches from looping."""

import random
import re
import time

from api.errors import InvalidParams
from shared.store.event_stream import START, EntryId

BEGINNING, TAIL = "-1", "now"
"""Offsets that the protocol itself names."""

EPOCH = 1_728_432_000
"""Of cursors: 9 October 2024, Unix time in seconds."""
INTERVAL_SECONDS = 20
MOST_JITTER_SECONDS = 3600

_OFFSET = re.compile(r"(\d{10})_(\d{10})", re.ASCII)
_CURSOR = re.compile(r"\d{1,15}", re.ASCII)


def offset_of(entry: EntryId) -> str:
    """The offset behind this entry. Offsets sort as texts, as the protocol wants it: hence the zeros."""
    return f"{entry.attempt:010}_{entry.sequence:010}"


def entry_at(offset: str) -> EntryId:
    """The entry that a reader at this offset has read last. Raises InvalidParams."""
    if offset == BEGINNING:
        return START
    if not (found := _OFFSET.fullmatch(offset)):
        raise InvalidParams("must be an offset that this server gave, -1 or now", place=("offset",))
    return EntryId(int(found[1]), int(found[2]))


def cursor_behind(cursor: str | None) -> str:
    """The cursor of a reply to a reader that sent this one: never the same again, so that no cache answers for ever."""
    now = int(time.time() - EPOCH) // INTERVAL_SECONDS
    if cursor is None or not _CURSOR.fullmatch(cursor) or int(cursor) < now:
        return str(now)
    return str(int(cursor) + random.randint(1, MOST_JITTER_SECONDS // INTERVAL_SECONDS))
