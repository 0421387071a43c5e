"""One answer on a terminal, as it comes: Markdown where there is one, plain text into a pipe."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markdown import Markdown
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from headrace.cli.common import notices
from headrace.events import Event, Status, Token, ToolCalls

_FENCE = re.compile(r" {0,3}(```|~~~)")
_PERCENT = re.compile(r"(\d+) ?%")


class View(Protocol):
    """Shows the events of one answer."""

    def show(self, event: Event) -> None: ...


@contextmanager
def answer_view() -> Iterator[View]:
    """What shows an answer on this terminal, or into this pipe."""
    if not sys.stdout.isatty():
        view = PlainView()
        try:
            yield view
        finally:
            print(flush=True)
        return
    console = Console()
    with Live(console=console, transient=True, refresh_per_second=12) as live:
        rich = RichView(console, live)
        try:
            yield rich
        finally:
            rich.finish()


class PlainView:
    """Text goes to stdout, all else worth knowing to stderr, reasoning too: a pipe gets the answer alone."""

    def __init__(self) -> None:
        self._thinking = False

    def show(self, event: Event) -> None:
        match event:
            case Token(text=text, reasoning=reasoning):
                if reasoning:
                    print(reasoning, end="", file=sys.stderr, flush=True)
                if text and (self._thinking or reasoning):
                    print("\n", file=sys.stderr, flush=True)
                print(text, end="", flush=True)
                self._thinking = not text and (self._thinking or bool(reasoning))
            case Status(restart=True):
                print("\n[the answer starts over]", file=sys.stderr, flush=True)
            case Status(state="PENDING", detail=str(detail)):
                print(f"[{detail}]", file=sys.stderr, flush=True)
            case Status(guard=guard) if guard is not None and guard.reason:
                print(f"[{guard.reason}]", file=sys.stderr, flush=True)
            case ToolCalls(tool_calls=calls):
                print("\n".join(f"{call.name}({call.arguments})" for call in calls), flush=True)
            case _:
                pass


class RichView:
    """Blocks of Markdown that are whole stand; the one that grows, and what is happening, is drawn anew."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console = console
        self._live = live
        self._notices = notices()
        self._rest = ""
        """Text behind the blocks that stand."""
        self._reasoning = ""
        self._status: RenderableType | None = Spinner("dots", "sent", style="cyan")
        self._draw()

    def show(self, event: Event) -> None:
        match event:
            case Token(text=text, reasoning=reasoning):
                self._status = None
                self._reasoning += reasoning
                if text and self._reasoning:
                    self._say(Text(self._reasoning.strip(), style="dim italic"))
                    self._reasoning = ""
                self._rest += text
                whole = whole_blocks(self._rest)
                self._stand(self._rest[:whole])
                self._rest = self._rest[whole:]
            case Status(state="PENDING" | "RETRY"):
                self._status = waiting(event)
            case Status(restart=True):
                self._rest = ""
                self._say(Text("The answer starts over with another revision of the model.", style="yellow"))
            case Status(state="STARTED", attempt=attempt):
                self._status = Spinner(
                    "dots", "thinking" if (attempt or 1) < 2 else "another worker goes on", style="cyan"
                )
            case ToolCalls(tool_calls=calls):
                for call in calls:
                    self._say(Text(f"{call.name}({call.arguments})", style="bold"))
            case _:
                pass
        if isinstance(event, Status) and event.guard is not None and event.guard.reason:
            self._say(Text(event.guard.reason, style="yellow"))
        self._draw()

    def finish(self) -> None:
        """What still grew stands now."""
        self._status, rest, self._rest = None, self._rest, ""
        self._draw()
        if self._reasoning:
            self._say(Text(self._reasoning.strip(), style="dim italic"))
        self._stand(rest)

    def _stand(self, text: str) -> None:
        if text.strip():
            self._say(_markdown(text))

    def _say(self, what: RenderableType) -> None:
        self._console.print(what)
        self._console.print()

    def _draw(self) -> None:
        # As much as fits: what is longer than the screen cannot be drawn anew.
        lines = self._rest.splitlines()[-max(self._console.height - 4, 1) :]
        reasoning = Text("\n".join(self._reasoning.splitlines()[-3:]), style="dim italic") if self._reasoning else None
        parts = [reasoning, _markdown("\n".join(lines)) if lines else None, self._status]
        self._live.update(Group(*(part for part in parts if part is not None)))


def _markdown(text: str) -> Markdown:
    """In the terminal's own colours, which are right on light ground too."""
    return Markdown(text, code_theme="ansi_dark")


def whole_blocks(text: str) -> int:
    """Characters of growing Markdown that stay as they are: up to the last empty line outside of code."""
    fenced, whole, at = False, 0, 0
    for line in text.splitlines(keepends=True):
        at += len(line)
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced and not line.strip() and line.endswith("\n"):
            whole = at
    return whole


def waiting(status: Status) -> RenderableType:
    """A line with the place in the queue and what is being done, with a bar where that has a percentage."""
    where = "its worker was lost or stopped; waiting for another" if status.state == "RETRY" else "waiting"
    words = ", ".join(filter(None, (where, f"position {status.position}" if status.position else "", status.detail)))
    spinner = Spinner("dots", words, style="yellow")
    percent = _PERCENT.search(status.detail or "")
    if percent is None:
        return spinner
    row = Table.grid(padding=(0, 1))
    row.add_row(spinner, ProgressBar(total=100, completed=int(percent[1]), width=24, complete_style="yellow"))
    return row
