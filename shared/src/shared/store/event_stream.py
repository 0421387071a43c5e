"""One Redis stream per task: its entry ids, its writer, its reader, and the doorbell that announces each entry.

The stream is the truth (log and resume); the pub/sub message carries the same content, so that a reader that is up to
date needs no second look. An entry's id is `<attempt>-<tokens so far>`: Redis refuses an id at or below the stream's
top, and that alone gives order, de-duplication and the fencing of workers that lost their lease.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import NamedTuple, cast

from pydantic import TypeAdapter
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from shared.store.keys import Keys
from shared.store.redis_client import each_its_own, replies_of
from shared.wire.schemas import TokenEvent, TokenLogprob

LOGPROBS: TypeAdapter[list[TokenLogprob]] = TypeAdapter(list[TokenLogprob])

AT_ONCE = 128
"""Entries in one round trip and one run of the script, which nobody else can come between: behind an outage they are
long."""
CLOSED = 2**32 - 1
"""Sequence number that closes an attempt; its ending follows at CLOSED + 1. No answer has as many tokens."""


class EntryId(NamedTuple):
    """Id of a stream entry, ordered as Redis orders it. It is also the SSE event id."""

    attempt: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.attempt}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "EntryId":
        """Raises ValueError for anything but two decimal numbers below 2**63 joined by a hyphen."""
        attempt, hyphen, sequence = text.partition("-")
        if not (hyphen and attempt.isascii() and sequence.isascii() and attempt.isdigit() and sequence.isdigit()):
            raise ValueError(f"not an event id: {text!r}")
        parsed = cls(int(attempt), int(sequence))
        if max(parsed) >= 2**63:
            raise ValueError(f"not an event id: {text!r}")
        return parsed


START = EntryId(0, 0)
"""Before every entry."""


class EntryLost(Exception):
    """An entry that a reader has seen is not in the stream: Redis has lost its newest writes."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as it stands in the stream."""

    id: EntryId
    type: str
    data: bytes
    """The event's JSON, one line; empty when these tokens gave no text to show (yet)."""
    token_ids: tuple[int, ...] = ()
    logprobs: bytes = b""
    """JSON of these tokens' log-probabilities, where some of them are still to be told: for whoever takes over."""

    @property
    def restarts(self) -> bool:
        """True where a new attempt starts the answer over: text and tokens before it are void."""
        # Most entries are not parsed for this one flag: inside of JSON text its quotes would be escaped.
        return self.type == "status" and b'"restart":true' in self.data


class Announcement(NamedTuple):
    """One message of the doorbell, in bytes as it comes; lua/prelude.lua and lua/append_tokens.lua write it."""

    previous: bytes
    """Id of the entry before it that carries data."""
    id: bytes
    type: bytes
    data: bytes
    """The event's JSON."""

    @classmethod
    def parse(cls, payload: bytes) -> "Announcement":
        """The announcement that `<previous> <id> <type> <data>` spells."""
        return cls(*payload.split(b" ", 3))


@dataclass(frozen=True, slots=True)
class TokenWrite:
    """One entry on its way into the stream; safe to write again when the outcome of the first time is unknown."""

    task_id: str
    entry: Entry
    previous: EntryId
    """The last entry before it that carries data."""
    before: EntryId
    """The entry that must stand right before it: the attempt's last one."""


class TokenWriter:
    """The write position of one attempt: collects tokens until the emitter's next flush."""

    def __init__(self, task_id: str, attempt: int, index: int) -> None:
        """`index`: tokens of the answer that earlier attempts wrote and this one goes on behind."""
        self.task_id = task_id
        self.index = index
        self._written = EntryId(attempt, 0)
        self._shown = self._written
        self._ids: list[int] = []
        self._text = ""
        self._reasoning = ""
        self._told: list[TokenLogprob] = []
        self._drawn: list[TokenLogprob] = []
        self._untold = False

    def add(self, token_ids: Sequence[int], text: str, reasoning: str = "") -> None:
        """Adds tokens, and the text and reasoning they made visible."""
        self._ids.extend(token_ids)
        self._text += text
        self._reasoning += reasoning

    def add_logprobs(self, drawn: Sequence[TokenLogprob], told: Sequence[TokenLogprob], *, untold: bool) -> None:
        """Adds those of all tokens that were added, and those whose text became visible; `untold`: that of some tokens
        has not yet."""
        self._drawn.extend(drawn)
        self._told.extend(told)
        self._untold = untold

    @property
    def written(self) -> EntryId:
        """The attempt's last entry that was given to Redis, or is about to be."""
        return self._written

    def take(self) -> TokenWrite | None:
        """What was added since the last call, as one entry; None when nothing was."""
        if not (self._ids or self._text or self._reasoning or self._told):
            return None
        self.index += len(self._ids)
        # Text that was held back can become visible without a new token: the entry still needs an id of its own.
        before = self._written
        sequence = max(self.index, before.sequence + 1)
        self._written = EntryId(before.attempt, sequence)
        data = b""
        if self._text or self._reasoning or self._told:
            event = TokenEvent(
                task_id=self.task_id,
                text=self._text,
                reasoning=self._reasoning or None,
                index=self.index,
                logprobs=self._told or None,
            )
            data = event.model_dump_json(exclude_none=True).encode()
        kept = LOGPROBS.dump_json(self._drawn, exclude_defaults=True) if self._untold and self._drawn else b""
        entry = Entry(self._written, "token", data, tuple(self._ids), kept)
        write = TokenWrite(self.task_id, entry, self._shown, before)
        if data:
            self._shown = self._written
        self._ids, self._text, self._reasoning = [], "", ""
        self._told, self._drawn = [], []
        return write


class EventStream:
    """Both ends of the tasks' streams."""

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis = redis
        self._keys = keys
        self._append = redis.register_script((files("shared.store") / "lua" / "append_tokens.lua").read_text())

    def channel(self, task_id: str) -> str:
        """The doorbell's pub/sub channel; it has the name of the stream."""
        return self._keys.events(task_id)

    async def write(self, writes: Sequence[TokenWrite]) -> list[bool | ResponseError]:
        """Writes at most one entry per attempt, AT_ONCE in one round trip; of each, whether its stream took it. It does
        not when the lease is lost, or when Redis no longer has the entry before it. Where Redis refuses one entry for
        what it is, the error stands in its place.

        Raises redis.exceptions.RedisError when Redis does not answer or refuses all (out of memory): call again with
        the same writes, Redis keeps what it already has.
        """
        replies: list[bool | ResponseError] = []
        for at in range(0, len(writes), AT_ONCE):
            replies += await self._write_at_once(writes[at : at + AT_ONCE])
        return replies

    async def _write_at_once(self, writes: Sequence[TokenWrite]) -> list[bool | ResponseError]:
        """One script for all, not one for each in a pipeline: to send and to read each costs more than to run it."""
        streams = [self._keys.events(write.task_id) for write in writes]
        arguments: list[str | bytes] = []
        for write in writes:
            entry = write.entry
            token_ids = ",".join(map(str, entry.token_ids))
            arguments += str(entry.id), entry.data, token_ids, str(write.previous), str(write.before), entry.logprobs
        replies = await self._append(keys=streams, args=arguments)
        return [reply if isinstance(reply, ResponseError) else reply == 1 for reply in each_its_own(replies)]

    async def read(self, task_id: str, after: EntryId = START, count: int | None = None) -> list[Entry]:
        """The entries behind `after`, oldest first; all of them or `count`."""
        key = self._keys.events(task_id)
        replies = cast(list[_RawEntry], await self._redis.xrange(key, min=f"({after}", max="+", count=count))
        return [_entry(entry_id, fields) for entry_id, fields in replies]

    async def read_on(self, task_id: str, after: EntryId, count: int) -> list[Entry]:
        """As `read`, for a reader that has the entry `after`. Raises EntryLost when the stream does not (any more)."""
        if after == START:
            return await self.read(task_id, START, count)
        key = self._keys.events(task_id)
        replies = cast(list[_RawEntry], await self._redis.xrange(key, min=str(after), max="+", count=count + 1))
        entries = [_entry(entry_id, fields) for entry_id, fields in replies]
        if entries and entries[0].id == after:
            return entries[1:]
        # A made-up id inside an attempt: the reader resumes at the next entry.
        if entries and entries[0].id.attempt == after.attempt and entries[0].id.sequence < CLOSED:
            return entries[:count]
        raise EntryLost

    async def tops(self, task_ids: Sequence[str]) -> list[EntryId]:
        """The newest entry of each stream, in one round trip; START for one that is not there or is no stream."""
        pipeline = self._redis.pipeline(transaction=False)
        for task_id in task_ids:
            pipeline.xrevrange(self._keys.events(task_id), count=1)
        tops = [None if isinstance(reply, ResponseError) else reply for reply in await replies_of(pipeline)]
        return [EntryId.parse(top[0][0].decode()) if top else START for top in tops]


_RawEntry = tuple[bytes, dict[bytes, bytes]]


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    ids = fields.get(b"i", b"")
    return Entry(
        EntryId.parse(entry_id.decode()),
        fields[b"t"].decode(),
        fields[b"d"],
        tuple(int(token) for token in ids.split(b",")) if ids else (),
        fields.get(b"l", b""),
    )
