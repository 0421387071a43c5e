"""The order of what a stream holds: OpenAI and Anthropic tell it in prose only, and their clients rely on it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

Json = dict[str, Any]


class Order(ABC):
    """Judges the events of one stream, one after the other."""

    fields: ClassVar[frozenset[str]]
    """Of an event on the wire."""
    mark: ClassVar[str | None]
    """What stands instead of an event at the end of all."""
    errors_are_events: ClassVar[bool] = False
    """An error has its number, and something follows it."""

    def __init__(self) -> None:
        self.complete = False
        """True when the stream may end."""

    def faults(self, event: Json, name: str | None) -> Iterator[str]:
        """What is wrong with this event at this place; `name` is its `event:` field."""
        if self.complete:
            yield "something behind the end"
        if "error" in event:
            self.complete = True
        else:
            yield from self._next(event, name)

    @abstractmethod
    def _next(self, event: Json, name: str | None) -> Iterator[str]: ...

    def marked(self) -> Iterator[str]:
        """What is wrong with the mark at this place."""
        if self.complete:
            yield f"{self.mark} behind the end"
        self.complete = True


class ChatOrder(Order):
    """Role, contents, tools, finish; then usage, if it was asked for; then [DONE]. One head for all."""

    fields = frozenset({"data"})
    mark = "[DONE]"

    def __init__(self) -> None:
        super().__init__()
        self._head: Json | None = None
        self._begun: set[int] = set()
        """Choices."""
        self._finished: set[int] = set()
        self._calls: set[tuple[int, int]] = set()
        """Choice and place of each tool call."""
        self._counted = False

    def _next(self, event: Json, name: str | None) -> Iterator[str]:
        head = {field: event.get(field) for field in ("id", "object", "created", "model", "system_fingerprint")}
        if head != (self._head or head):
            yield f"another head than {self._head}"
        self._head = head
        if self._counted:
            yield "a chunk behind the usage"
        if not event["choices"]:
            self._counted = True
            if not event.get("usage"):
                yield "neither choices nor usage"
            if self._begun - self._finished:
                yield "usage before the finish"
        for choice in event["choices"]:
            yield from self._choice(choice)

    def _choice(self, choice: Json) -> Iterator[str]:
        index = choice["index"]
        if index in self._finished:
            yield "something behind the finish"
        if choice["finish_reason"] is not None:
            self._finished.add(index)
        if "delta" not in choice:
            return  # of a completion, not of a chat
        delta = choice["delta"]
        if ("role" in delta) != (index not in self._begun):
            yield "the role belongs into the first delta, and nowhere else"
        self._begun.add(index)
        if choice["finish_reason"] is not None and delta:
            yield "the finish has a delta of its own"
        for call in delta.get("tool_calls", ()):
            first = (index, call["index"]) not in self._calls
            self._calls.add((index, call["index"]))
            # Clients append field by field: what comes twice is there twice.
            whole = {"index", "id", "type", "function"} if first else {"index", "function"}
            if set(call) != whole or set(call["function"]) != ({"name", "arguments"} if first else {"arguments"}):
                yield f"not the fields of {'the first' if first else 'a later'} delta of a call"

    def marked(self) -> Iterator[str]:
        yield from super().marked()
        if not self._finished or self._begun - self._finished:
            yield "[DONE] before the finish"


class MessageOrder(Order):
    """Start; blocks, one after the other; delta; stop."""

    fields = frozenset({"event", "data"})
    mark = None

    def __init__(self) -> None:
        super().__init__()
        self._last = ""
        self._open: int | None = None
        """The block that is open."""
        self._blocks = 0

    def _next(self, event: Json, name: str | None) -> Iterator[str]:
        kind = event["type"]
        if name != kind:
            yield f"is called {name}"
        if (kind == "message_start") != (self._last == ""):
            yield "the stream begins with message_start"
        match kind:
            case "content_block_start":
                if self._open is not None or event["index"] != self._blocks:
                    yield f"block {self._open} is open, and there were {self._blocks}"
                self._open = event["index"]
                self._blocks += 1
            case "content_block_delta" | "content_block_stop":
                if event["index"] != self._open:
                    yield f"block {self._open} is open"
                if kind == "content_block_stop":
                    self._open = None
            case "message_delta" if self._open is not None:
                yield f"block {self._open} is open"
            case "message_stop":
                self.complete = True
                if self._last != "message_delta":
                    yield "the stop comes behind message_delta"
        self._last = kind


CLOSED = ("This replica of the API stops", "A connection is closed when", "This API key was revoked")
"""How errors begin behind which a response goes on, for who reads it again."""


class ResponseOrder(Order):
    """Numbers without a gap; items, each opened, filled and closed; what ends the response; [DONE]."""

    fields = frozenset({"event", "data"})
    mark = "[DONE]"
    errors_are_events = True

    def __init__(self) -> None:
        super().__init__()
        self._number: int | None = None
        self._open: Json | None = None
        """The item that is open, and what was said of it."""
        self._over = False

    def faults(self, event: Json, name: str | None) -> Iterator[str]:
        if self.complete:
            yield "something behind the end"
        if name != event["type"]:
            yield f"is called {name}"
        number, retold = event["sequence_number"], event["type"] in ("response.queued", "error")
        if self._number is not None and number != self._number + 1 and not (retold and number == self._number):
            yield f"number {number} behind {self._number}"
        if self._number is None and number == 0 and event["type"] != "response.created":
            yield "the first event is response.created"
        self._number = number
        # What this replica alone has to say, and nothing more: why it closes the stream.
        self.complete = event["type"] == "error" and event["error"]["message"].startswith(CLOSED)
        yield from self._next(event, name)

    def _next(self, event: Json, name: str | None) -> Iterator[str]:
        if self._over:
            yield "something behind what ended the response"
        match event["type"]:
            case "response.completed" | "response.incomplete" | "response.failed":
                self._over = True
                if self._open is not None and event["type"] != "response.failed":
                    yield f"item {self._open} is open"
            case "response.output_item.added":
                if self._open is not None:
                    yield f"item {self._open} is open"
                self._open = {"at": event["output_index"], "id": event["item"]["id"], "text": "", "begun": True}
            case "response.output_item.done":
                yield from self._of_open(event, event["item"]["id"])
                self._open = None
            case kind if "item_id" in event:
                yield from self._of_open(event, event["item_id"])
                if kind.endswith(".delta") and self._open:
                    self._open["text"] += event["delta"]
                elif "text" in event and self._open and not self._as_said(event["text"]):
                    yield f"another text than its deltas, {self._open['text']!r}"

    def _as_said(self, text: str) -> bool:
        assert self._open is not None
        deltas = str(self._open["text"])
        return text == deltas if self._open["begun"] else text.endswith(deltas)

    def _of_open(self, event: Json, item_id: str) -> Iterator[str]:
        # A stream that is read on may begin inside of an item.
        if self._open is None:
            self._open = {"at": event["output_index"], "id": item_id, "text": "", "begun": False}
        if (self._open["at"], self._open["id"]) != (event["output_index"], item_id):
            yield f"item {self._open} is open"
