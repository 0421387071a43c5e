"""One reader of all the streams that this process serves: the doorbell for speed, the stream itself for truth."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from redis.asyncio import Redis
from redis.exceptions import RedisError

from api.hub.doorbell import Doorbell
from api.hub.frame import framed
from api.hub.subscription import Subscription
from shared.cancellation import cancel_and_wait
from shared.store.event_stream import START, Announcement, EntryId, EventStream
from shared.store.outage import level

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
FIRST_LOOK_SECONDS = 1.0
"""A stream is looked at when nothing of it was heard for as long."""
NEXT_LOOK_SECONDS = 1.75
"""While it stays silent, it is looked at again after this."""
SWEEP = 200
"""Streams looked at in one round trip: few enough not to hold up the others' tokens."""


@dataclass(slots=True, eq=False)
class Feed:
    """One stream that somebody reads."""

    task_id: str
    subscriptions: set[Subscription] = field(default_factory=set)
    joined: asyncio.Event = field(default_factory=asyncio.Event)
    """The doorbell is connected to it."""
    next_look: float = field(default_factory=lambda: asyncio.get_running_loop().time() + FIRST_LOOK_SECONDS)
    """When it is to be looked at unless it is heard of, in seconds of the event loop's clock."""
    doubtful: bool = False
    """True when the last look found less in the stream than was read from it."""

    async def heard_of(self) -> None:
        """Returns when the doorbell is connected to this stream, or after a second: then a look finds what it holds."""
        if not self.joined.is_set():
            try:
                async with asyncio.timeout(FIRST_LOOK_SECONDS):
                    await self.joined.wait()
            except TimeoutError:
                log.debug("the doorbell of task %s is not connected", self.task_id)

    def look(self, top: EntryId, now: float) -> None:
        """Compares the stream's newest entry with what its readers have."""
        self.next_look = now + NEXT_LOOK_SECONDS
        less = False
        for subscription in list(self.subscriptions):
            if subscription.behind:
                continue
            if subscription.position < top:
                subscription.fall_behind()
            elif top < subscription.position or top == START:
                less = True
                # Twice: an announcement may overtake the look at the stream.
                if self.doubtful:
                    subscription.lose()
        self.doubtful = less


class EventHub:
    """All subscriptions of this process, over one pub/sub connection."""

    def __init__(self, redis: Redis, stream: EventStream, *, on_slow: Callable[[], None] = lambda: None) -> None:
        """`on_slow` is called whenever a reader is so slow that what waits for it is dropped."""
        self._stream = stream
        self._on_slow = on_slow
        self._feeds: dict[bytes, Feed] = {}
        self._doorbell = Doorbell(
            redis, on_message=self._announced, on_joined=self._joined, on_connected=self._look_at_all
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._now = 0.0

    async def start(self) -> None:
        """Starts the background work; Redis need not be there yet."""
        self._tasks = [asyncio.create_task(self._doorbell.run()), asyncio.create_task(self._sweep())]

    async def stop(self) -> None:
        """Ends all subscriptions and the background work."""
        for feed in list(self._feeds.values()):
            for subscription in list(feed.subscriptions):
                subscription.close()
        await cancel_and_wait(*self._tasks)

    def follow(self, task_id: str, after: EntryId = START, *, whole: bool = False) -> Subscription:
        """The events of the task behind `after`, and those to come; `whole`: none is ever joined with the next one.

        Iterate it, or close it.
        """
        channel = self._stream.channel(task_id).encode()
        feed = self._feeds.get(channel)
        if feed is None:
            feed = self._feeds[channel] = Feed(task_id)
            if self._doorbell.join(channel):
                feed.joined.set()
        subscription = Subscription(
            task_id,
            after,
            ready=feed.heard_of,
            read=self._stream.read_on,
            leave=self._forget,
            on_slow=self._on_slow,
            whole=whole,
        )
        feed.subscriptions.add(subscription)
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        channel = self._stream.channel(subscription.task_id).encode()
        feed = self._feeds[channel]
        feed.subscriptions.discard(subscription)
        if not feed.subscriptions:
            del self._feeds[channel]
            self._doorbell.leave(channel)

    def _announced(self, channel: bytes, payload: bytes) -> None:
        feed = self._feeds.get(channel)
        if feed is None:
            return
        told = Announcement.parse(payload)
        feed.next_look = self._now + FIRST_LOOK_SECONDS
        feed.doubtful = False
        frame = framed(told.id, told.type, told.data)
        for subscription in feed.subscriptions:
            subscription.offer(told.previous, frame)

    def _joined(self, channel: bytes) -> None:
        if feed := self._feeds.get(channel):
            feed.joined.set()

    def _look_at_all(self) -> None:
        """After a reconnect: what was announced meanwhile was missed."""
        for feed in self._feeds.values():
            feed.next_look = 0.0

    async def _sweep(self) -> None:
        """Looks at the streams that are silent: perhaps they are not, and an announcement was lost."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self._now = loop.time()
            due = [feed for feed in self._feeds.values() if feed.next_look <= now]
            try:
                for at in range(0, len(due), SWEEP):
                    feeds = due[at : at + SWEEP]
                    tops = await self._stream.tops([feed.task_id for feed in feeds])
                    for feed, top in zip(feeds, tops, strict=True):
                        feed.look(top, now)
            except (RedisError, OSError) as error:
                log.log(level(error), "cannot look at the streams: %s", error)
