"""The pub/sub connection of this process: the channels that it listens to, and every message as it arrives."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from shared.store.outage import level

log = logging.getLogger(__name__)

PING_SECONDS = 5.0
"""A connection that is silent for as long is asked whether it is still there."""
RECONNECT_SECONDS = 0.2, 1.0
"""First and longest pause before another connection is tried."""
READ_BYTES = 1 << 16


class Doorbell:
    """Rings for each message of the channels it was told to listen to; connects again for as long as it runs.

    redis-py makes the connection (TLS, authentication, Sentinel); its messages are read here, many per system call,
    because redis-py's own way of reading costs more time per message than everything else that happens to a token.
    """

    def __init__(
        self,
        redis: Redis,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_joined: Callable[[bytes], None],
        on_connected: Callable[[], None],
    ) -> None:
        """`on_message`: channel and payload. `on_joined`: a channel from which no message is missed from now on."""
        self._pool = redis.connection_pool
        self._on_message = on_message
        self._on_joined = on_joined
        self._on_connected = on_connected
        self._wanted: set[bytes] = set()
        self._asked: set[bytes] = set()
        self._joined: set[bytes] = set()
        self._changed = asyncio.Event()
        self._heard_at = 0.0

    def join(self, channel: bytes) -> bool:
        """Listens to the channel; True when it did already, else `on_joined` tells."""
        self._wanted.add(channel)
        self._changed.set()
        return channel in self._joined

    def leave(self, channel: bytes) -> None:
        """Stops listening to the channel."""
        self._wanted.discard(channel)
        self._changed.set()

    async def run(self) -> None:
        """Until cancelled."""
        shortest, longest = RECONNECT_SECONDS
        pause = 0.0
        while True:
            try:
                connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]  # redis-py's decorator
                try:
                    pause = 0.0
                    await self._converse(connection)
                finally:
                    await connection.disconnect(nowait=True)
                    await self._pool.release(connection)
            except* (RedisError, OSError) as errors:
                error = errors.exceptions[0]
                log.log(level(error), "no pub/sub connection: %s", error)
            except* Exception as errors:
                log.error("reading the pub/sub connection failed", exc_info=errors)
            await asyncio.sleep(pause)
            pause = min(max(shortest, 2 * pause), longest)

    async def _converse(self, connection: Any) -> None:
        self._asked, self._joined = set(), set()
        self._heard_at = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen(connection._reader))
            group.create_task(self._ask(connection._writer, PING_SECONDS + (connection.socket_timeout or PING_SECONDS)))

    async def _listen(self, incoming: asyncio.StreamReader) -> None:
        loop = asyncio.get_running_loop()
        parser = hiredis.Reader()
        ring = self._on_message
        while data := await incoming.read(READ_BYTES):
            self._heard_at = loop.time()
            parser.feed(data)
            while (message := parser.gets()) is not False:
                match message:
                    case [b"message", channel, payload]:
                        ring(channel, payload)
                    case [b"subscribe", channel, _]:
                        self._joined.add(channel)
                        self._on_joined(channel)
        raise RedisConnectionError("closed by the server")

    async def _ask(self, outgoing: asyncio.StreamWriter, patience: float) -> None:
        """Tells Redis what to send, and asks now and then whether it is still there."""
        loop = asyncio.get_running_loop()
        told = False
        while True:
            self._changed.clear()
            new, gone = self._wanted - self._asked, self._asked - self._wanted
            if gone:
                self._asked -= gone
                self._joined -= gone
                outgoing.write(_command(b"UNSUBSCRIBE", *gone))
            if new:
                self._asked |= new
                outgoing.write(_command(b"SUBSCRIBE", *new))
            if not told:
                told = True
                self._on_connected()
            silence = loop.time() - self._heard_at
            if silence > patience:
                raise RedisConnectionError(f"silent for {silence:.0f} s")
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self._changed.wait()
            except TimeoutError:
                outgoing.write(_command(b"PING"))


def _command(*words: bytes) -> bytes:
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # declared as a tuple of exactly one
    return packed
