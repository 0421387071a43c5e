"""An item of a response's output that grows: the events that open it, add to it and close it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydantic import JsonValue

from api.responses.ids import item_id

Json = dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Kind:
    """What sort of text it is."""

    prefix: str
    """Of the item's id."""
    deltas: str
    """In the names of its events."""
    item: Callable[[list[JsonValue]], Json]
    """The item's own fields, around this content."""
    part: Callable[[str, list[JsonValue]], Json]
    """The one part of its content: of its text, and of how likely its tokens were."""
    logprobs: bool
    """Whether its events tell that."""


MESSAGE = Kind(
    "msg",
    "output_text",
    item=lambda content: {"type": "message", "role": "assistant", "content": content},
    part=lambda text, logprobs: {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs},
    logprobs=True,
)
"""What the model says."""
REASONING = Kind(
    "rs",
    "reasoning_text",
    item=lambda content: {"type": "reasoning", "summary": [], "content": content},
    part=lambda text, _: {"type": "reasoning_text", "text": text},
    logprobs=False,
)
"""What the model writes for itself."""


class OpenItem:
    """One such item, whose text is not complete."""

    def __init__(self, kind: Kind, task_id: str, at: int) -> None:
        """`at`: its place in the output."""
        self.kind = kind
        self._at = at
        self._id = item_id(kind.prefix, task_id, at)
        self._texts: list[str] = []
        self._logprobs: list[JsonValue] = []

    def item(self, status: str) -> Json:
        """The item with its text so far."""
        return self._item(status, [self._part()])

    def opening(self) -> Iterator[Json]:
        """The events before its text."""
        item = self._item("in_progress", [])
        yield {"type": "response.output_item.added", "output_index": self._at, "item": item}
        yield {"type": "response.content_part.added", **self._place(), "part": self.kind.part("", [])}

    def delta(self, text: str, logprobs: list[JsonValue]) -> Json:
        """More text, and the event that says so."""
        self._texts.append(text)
        self._logprobs += logprobs
        told = {"delta": text, **self._likely(logprobs)}
        return {"type": f"response.{self.kind.deltas}.delta", **self._place(), **told}

    def closing(self, status: str) -> Iterator[Json]:
        """The events behind its text."""
        told = {"text": "".join(self._texts), **self._likely(self._logprobs)}
        yield {"type": f"response.{self.kind.deltas}.done", **self._place(), **told}
        yield {"type": "response.content_part.done", **self._place(), "part": self._part()}
        yield {"type": "response.output_item.done", "output_index": self._at, "item": self.item(status)}

    def _part(self) -> Json:
        return self.kind.part("".join(self._texts), list(self._logprobs))

    def _likely(self, logprobs: list[JsonValue]) -> Json:
        return {"logprobs": list(logprobs)} if self.kind.logprobs else {}

    def _place(self) -> Json:
        return {"item_id": self._id, "output_index": self._at, "content_index": 0}

    def _item(self, status: str, content: list[JsonValue]) -> Json:
        return {"id": self._id, "status": status} | self.kind.item(content)
