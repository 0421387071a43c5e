"""Messages of the cluster on one line, short enough for an event."""

import json
from contextlib import suppress

LONGEST_LINE = 200
"""Characters of one message."""


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Both ends of a long text: what it is about stands at its beginning, and the cause at its end."""
    line = " ".join(text.split())
    if len(line) <= longest:
        return line
    head = longest * 2 // 5
    return f"{line[:head].rstrip()} … {line[head + 3 - longest :].lstrip()}"


def last_line(log: str) -> str:
    """Of a log; where it is JSON, its message."""
    line = next((line for line in reversed(log.splitlines()) if line.strip()), "")
    if line.startswith("{"):
        with suppress(ValueError, KeyError):
            line = str(json.loads(line)["message"])
    return one_line(line)
