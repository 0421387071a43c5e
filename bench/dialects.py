"""How each server is asked, and how tokens are counted in what it sends."""

import json
import re
import time
from typing import Protocol

from bench.http_connection import Disconnected, HttpConnection
from bench.measures import Timeline
from bench.trace import Turn


class Dialect(Protocol):
    """One way of asking for an answer over HTTP."""

    async def ask(self, connection: HttpConnection, turn: Turn, timeline: Timeline) -> None:
        """Notes acceptance, arrivals and errors in the timeline."""


async def timed(dialect: Dialect, connection: HttpConnection, turn: Turn) -> Timeline:
    """Asks once; what goes wrong is the timeline's error."""
    timeline = Timeline(sent=time.perf_counter())
    try:
        await dialect.ask(connection, turn, timeline)
    except (OSError, Disconnected, KeyError, ValueError) as error:
        timeline.error = f"{type(error).__name__}: {error}"
        connection.close()
    timeline.ended = time.perf_counter()
    return timeline


class HeadraceDialect:
    """`POST /rpc`, then `GET /stream/{taskId}` on the same connection."""

    _INDEX = re.compile(rb'"index":(\d+)')

    async def ask(self, connection: HttpConnection, turn: Turn, timeline: Timeline) -> None:
        params = {"messages": turn.messages, "maxTokens": turn.max_tokens, "temperature": 0}
        if turn.tools:
            params["tools"] = turn.tools
        call = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": params}
        _, reply = await connection.request("POST", "/rpc", json.dumps(call).encode())
        task_id = timeline.task_id = json.loads(reply)["result"]["taskId"]
        timeline.accepted = time.perf_counter()
        tail = b""

        def count(data: bytes, now: float) -> None:
            nonlocal tail
            tail = data
            if indexes := self._INDEX.findall(data):
                timeline.arrivals.append((now, int(indexes[-1])))

        status = await connection.stream("GET", f"/stream/{task_id}", b"", count)
        if status != 200 or b'"state":"SUCCESS"' not in tail:
            timeline.error = f"status {status}, {tail[-200:]!r}"


class OpenAiDialect:
    """`POST /v1/chat/completions` with `stream`; every piece with content counts as one token.

    `usage`: a server that puts several tokens into a piece says at the end how many there were.
    """

    _CONTENT = re.compile(rb'"content": ?"(?!")')
    _USAGE = re.compile(rb'"completion_tokens": ?(\d+)')

    def __init__(self, model: str, path: str = "/v1/chat/completions", *, usage: bool = False) -> None:
        self._model = model
        self._path = path
        self._usage = {"stream_options": {"include_usage": True}} if usage else {}

    async def ask(self, connection: HttpConnection, turn: Turn, timeline: Timeline) -> None:
        body = {"model": self._model, "messages": turn.messages, "max_tokens": turn.max_tokens, "stream": True}
        body |= {"temperature": 0, **self._usage, **({"tools": turn.tools} if turn.tools else {})}
        tokens = 0

        def count(data: bytes, now: float) -> None:
            nonlocal tokens
            if new := len(self._CONTENT.findall(data)):
                tokens += new
                timeline.arrivals.append((now, tokens))
            if timeline.arrivals and (told := self._USAGE.search(data)):
                timeline.arrivals[-1] = (timeline.arrivals[-1][0], int(told[1]))

        status = await connection.stream("POST", self._path, json.dumps(body).encode(), count)
        if status != 200:
            timeline.error = f"status {status}"


class EventsDialect:
    """A POST whose answer is one line `data: …` per token; the body is the same for every peer."""

    def __init__(self, path: str, marker: bytes = b"data:") -> None:
        self._path = path
        self._marker = marker

    async def ask(self, connection: HttpConnection, turn: Turn, timeline: Timeline) -> None:
        body = json.dumps({"tokens": turn.max_tokens, "messages": turn.messages}).encode()
        tokens = 0

        def count(data: bytes, now: float) -> None:
            nonlocal tokens
            if new := data.count(self._marker):
                tokens += new
                timeline.arrivals.append((now, tokens))

        status = await connection.stream("POST", self._path, body, count)
        if status != 200:
            timeline.error = f"status {status}"


class WholeAnswerDialect:
    """The replaced design: a POST gives an id, an event stream polls for its result and sends all of it at once."""

    async def ask(self, connection: HttpConnection, turn: Turn, timeline: Timeline) -> None:
        body = json.dumps({"messages": turn.messages, "max_tokens": turn.max_tokens}).encode()
        _, reply = await connection.request("POST", "/tasks", body)
        task_id = json.loads(reply)["task_id"]
        timeline.accepted = time.perf_counter()
        parts: list[tuple[bytes, float]] = []
        await connection.stream("GET", f"/tasks/{task_id}", b"", lambda data, now: parts.append((data, now)))
        data = b"".join(part for part, _ in parts)
        answer = json.loads(data.partition(b"data: ")[2].partition(b"\r\n")[0].partition(b"\n")[0])
        timeline.arrivals.append((parts[-1][1], answer["tokens"]))
