"""Answers on a terminal and in a pipe."""

import io
import re

import pytest
from rich.console import Console
from rich.live import Live

from headrace.cli.answer_view import RichView, waiting, whole_blocks
from headrace.events import EVENT, Event, Status
from testbed import terminal_picture
from testbed.event_frames import TIMINGS, USAGE


def event(kind: str, **fields: object) -> Event:
    return EVENT.validate_python({"type": kind, "taskId": "t1", **fields})


def shown(*events: Event) -> str:
    """What stands on a terminal at the end."""
    console = Console(file=io.StringIO(), force_terminal=True, width=80, height=24, color_system=None)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        view = RichView(console, live)
        for one in events:
            view.show(one)
            live.refresh()
        view.finish()
    assert isinstance(console.file, io.StringIO)
    return re.sub(r"\x1b\[[?\d]*[a-zA-Z]", "", console.file.getvalue())  # without the terminal's own words


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("", ""),
        ("a line", ""),
        ("one\n\ntwo", "one\n\n"),
        ("one\n\n```\ncode\n\nmore", "one\n\n"),
        ("```\ncode\n\nmore\n```\n\nafter", "```\ncode\n\nmore\n```\n\n"),
        ("~~~\na\n~~~\n\n", "~~~\na\n~~~\n\n"),
    ],
)
def test_a_block_is_whole_when_nothing_can_change_it(text: str, whole: str) -> None:
    assert text[: whole_blocks(text)] == whole


def test_blocks_stand_in_their_order_each_once() -> None:
    pieces = ["# Ti", "tle\n\nSome *te", "xt*.\n\n```py\nx = 1\n\ny = 2\n``", "`\n\nThe e", "nd."]
    out = shown(*(event("token", text=piece, index=number) for number, piece in enumerate(pieces, 1)))
    end = out[out.rindex("x = 1") :]
    assert "y = 2" in end
    assert end.rstrip().endswith("The end.")
    assert "*" not in end
    assert "```" not in end


def test_who_waits_sees_the_place_what_is_done_and_a_bar() -> None:
    out = shown(
        event("status", state="PENDING", position=3, detail="loading weights 50 %"),
        event("status", state="RETRY", attempt=1),
        event("status", state="STARTED", attempt=2),
    )
    assert "waiting, position 3, loading weights 50 %" in out
    assert "━━━━" in out
    assert "its worker was lost or stopped" in out
    assert "another worker goes on" in out


def test_reasoning_notices_and_calls_are_told() -> None:
    out = shown(
        event("status", state="PENDING", guard={"reason": "calls were taken out"}),
        event("token", text="", reasoning="Who is it?", index=1),
        event("token", text="Hi", index=2),
        event("status", state="STARTED", attempt=2, restart=True),
        event("token", text="Hello", index=3),
        event(
            "tool_calls",
            toolCalls=[{"id": "c", "name": "add", "arguments": {"a": 1}}],
            text="Hello",
            usage=USAGE,
            timings=TIMINGS,
        ),
    )
    for told in ("calls were taken out", "Who is it?", "starts over", "Hello", "add({'a': 1})"):
        assert told in out


def test_the_pictures_of_the_documents_show_it() -> None:
    console = terminal_picture.recording()
    console.print("[dim]$[/] headrace ask 'How does a hash map work?'\n")
    told = event("status", state="PENDING", position=2, detail="loading weights 62 %")
    assert isinstance(told, Status)
    console.print(waiting(told))
    console.print()
    with Live(console=console, auto_refresh=False, transient=True) as live:
        view = RichView(console, live)
        text = "A **hash map** finds a value by its key:\n\n1. The key is *hashed*.\n2. The number names a bucket.\n\n"
        code = "```python\ndef put(table, key, value):\n    table[hash(key) % len(table)].append((key, value))\n```\n"
        view.show(event("token", text=text + code, index=1))
        view.finish()
    assert "A hash map finds a value" in console.export_text(clear=False)
    terminal_picture.keep(console, "ask", "headrace ask")
