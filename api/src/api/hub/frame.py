"""How events look on the wire of Server-Sent Events. sse-starlette would write the same; a test holds them together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from shared.store.event_stream import Entry

COMMENT = b": \n\n"
"""No event: it keeps a connection from looking idle."""


@dataclass(slots=True)
class Frame:
    """One event, framed once for all its readers."""

    id: bytes
    type: bytes
    data: bytes
    """The event's JSON."""
    wire: bytes
    """The event as Server-Sent Events spell it."""
    stored: bool = True
    """False: it stands in no stream, this process alone says it."""


def framed(entry_id: bytes, kind: bytes, data: bytes) -> Frame:
    """The frame of one event; `data` is one line."""
    return Frame(entry_id, kind, data, b"id: %b\nevent: %b\ndata: %b\n\n" % (entry_id, kind, data))


def frames_of(entries: Sequence[Entry], *, merge: bool) -> list[Frame]:
    """Frames of the entries that show something; with `merge`, tokens in a row become one event."""
    frames: list[Frame] = []
    shown = [entry for entry in entries if entry.data]
    for kind, run in groupby(shown, key=lambda entry: entry.type):
        same = list(run)
        if merge and kind == "token" and len(same) > 1:
            events = [json.loads(entry.data) for entry in same]
            merged = events[-1] | {"text": "".join(event["text"] for event in events)}
            if reasoning := "".join(event.get("reasoning", "") for event in events):
                merged["reasoning"] = reasoning
            if logprobs := [one for event in events for one in event.get("logprobs", ())]:
                merged["logprobs"] = logprobs
            data = json.dumps(merged, ensure_ascii=False, separators=(",", ":")).encode()
            same = [Entry(same[-1].id, kind, data)]
        frames += [framed(str(entry.id).encode(), kind.encode(), entry.data) for entry in same]
    return frames


def retry_in(milliseconds: int) -> bytes:
    """No event: it tells the client how long to wait when the connection closes, before it connects again."""
    return b"retry: %d\n\n" % milliseconds
