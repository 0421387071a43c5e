"""What clients saw, and the one checker that judges it: the promises of docs/reliability.md as code."""

import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import httpx
from redis.asyncio import Redis

from shared.store.event_stream import EntryId, EventStream
from shared.store.keys import Keys


@dataclass(frozen=True)
class Seen:
    """One event as one client read it."""

    at: float
    """Seconds of the monotonic clock."""
    replica: str
    id: EntryId
    type: str
    data: dict[str, Any]


@dataclass
class History:
    """Everything one client saw of one task, over all its connections."""

    task_id: str
    deadline: float
    """Monotonic time by which the task must have ended."""
    expected: str | None = None
    """The text of an undisturbed run, where the test knows it."""
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    refused: str = ""
    """Why the server would not go on with the stream (410, 404)."""

    @property
    def ended(self) -> bool:
        return bool(self.seen) and self.seen[-1].type == "end"

    @property
    def state(self) -> str:
        return str(self.seen[-1].data["state"]) if self.ended else ""

    @property
    def text(self) -> str:
        """The answer as the client put it together: token texts since the last restart."""
        text = ""
        for one in self.seen:
            if one.data.get("restart"):
                text = ""
            if one.type == "token":
                text += one.data["text"]
        return text

    @property
    def longest_silence(self) -> float:
        """Seconds; a live PENDING does not count as news."""
        times = [one.at for one in self.seen if not _is_live(one)]
        return max((after - before for before, after in itertools.pairwise(times)), default=0.0)

    @property
    def started(self) -> list[int]:
        """The attempts that began, in order."""
        return [one.data["attempt"] for one in self.of("status") if one.data["state"] == "STARTED"]

    @property
    def retries(self) -> int:
        return sum(one.data["state"] == "RETRY" for one in self.of("status"))

    def first_token_of(self, attempt: int) -> float:
        """When it came, in seconds of the monotonic clock."""
        return next(one.at for one in self.of("token") if one.id.attempt == attempt)

    def of(self, kind: str) -> list[Seen]:
        return [one for one in self.seen if one.type == kind]

    def describe(self) -> str:
        """For a failing test: the history, one event a line."""
        start = self.seen[0].at if self.seen else 0.0
        lines = [f"{one.at - start:8.3f}s {one.replica} {one.id} {one.type} {one.data}" for one in self.seen]
        return "\n".join([f"task {self.task_id}, {self.connections} connections {self.refused}", *lines])


async def follow(client: httpx.AsyncClient, replicas: Iterable[str], history: History, until: float) -> History:
    """Reads the task's stream to its end, from one replica after the other, resuming as a browser would.

    Returns at `end`, at a refusal (404, 410), or at the monotonic time `until`.
    """
    for replica in itertools.cycle(replicas):
        if time.monotonic() > until:
            break
        headers = {"Last-Event-ID": str(history.seen[-1].id)} if history.seen else {}
        url = f"{replica}/stream/{history.task_id}"
        history.connections += 1
        with contextlib.suppress(httpx.HTTPError, TimeoutError):
            async with (
                asyncio.timeout(max(0.1, until - time.monotonic())),
                client.stream("GET", url, headers=headers) as response,
            ):
                if response.status_code in (404, 410):
                    await response.aread()
                    history.refused = f"{response.status_code}: {response.text}"
                    return history
                if response.status_code == 200:
                    await _read(response, replica, history)
        if history.ended:
            return history
        await asyncio.sleep(0.05)  # a browser waits too before it reconnects
    return history


async def _read(response: httpx.Response, replica: str, history: History) -> None:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line:
            if "data" in fields:
                entry_id = EntryId.parse(fields["id"])
                event = json.loads(fields["data"])
                history.seen.append(Seen(time.monotonic(), replica, entry_id, fields["event"], event))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


def check_client(history: History, expected_text: str | None = None) -> None:
    """I1, I2, I3, I6 for one client: one ending, last; ids and indexes only rise; the text is whole; not too late."""
    story = history.describe()
    assert not history.refused, story
    assert [one.type for one in history.seen].count("end") == 1, f"not exactly one end\n{story}"
    assert history.ended, f"events behind the end\n{story}"
    assert history.seen[-1].at <= history.deadline, f"later than the deadline\n{story}"
    stored = [one for one in history.seen if not _is_live(one)]
    for before, after in itertools.pairwise(stored):
        assert before.id < after.id, f"{after.id} came behind {before.id}\n{story}"
    index = 0
    for one in history.seen:
        if one.data.get("restart"):
            index = 0
        if one.type == "token":
            assert one.data["index"] > index or not one.data["text"].strip(), f"index {one.data['index']}\n{story}"
            index = one.data["index"]
    for final in history.of("final_text"):
        assert history.text == final.data["text"], f"deltas and answer differ\n{story}"
    if expected_text is not None:
        assert history.text == expected_text, f"expected {expected_text!r}\n{story}"


def _is_live(one: Seen) -> bool:
    """A PENDING status that the API makes on the spot has the id of the entry before it."""
    return one.type == "status" and one.data["state"] == "PENDING"


async def check_stream(stream: EventStream, task_id: str) -> None:
    """I2, I4 on the stored truth: no token twice, none missing, no write of an old attempt behind a new one."""
    count = 0
    for entry in await stream.read(task_id):
        event = json.loads(entry.data) if entry.data else {}
        if event.get("restart"):
            count = 0
        count += len(entry.token_ids)
        if entry.type == "token" and event:
            assert event["index"] == count, f"{task_id}: {entry.id} says index {event['index']}, tokens so far {count}"


async def check_quiet(redis: Redis, keys: Keys, model: str) -> None:
    """I5: when everything has ended, nothing waits, runs, is queued, unacknowledged or without an end of its life."""
    assert await redis.zcard(keys.waiting(model)) == 0
    assert await redis.zcard(keys.running(model)) == 0
    assert await redis.zcard(keys.deadlines) == 0
    for kind in ("task", "events", "tenant", "idempotency"):
        async for key in redis.scan_iter(match=f"{keys.prefix}{kind}:*"):
            assert kind != "tenant", f"{key!r} still has tasks"
            assert await redis.pttl(key) > 0, f"{key!r} never expires"
