"""A TCP proxy that misbehaves on demand, to stand between Headrace and Redis, or between clients and its replicas."""

import asyncio
import contextlib
import re
import socket
import struct


class TcpProxy:
    """Forwards bytes; each fault applies to all its connections, present and future.

    Of several targets each connection goes to the next one that listens.
    """

    def __init__(self, *target_ports: int) -> None:
        self._target_ports = list(target_ports)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._swallow = asyncio.Event()
        self.latency = 0.0
        """Seconds added to every chunk, each way."""
        self.reset_every = 0
        """Resets the connection on every n-th chunk from a client; 0: never."""
        self._chunks = 0
        self.heard = b""
        """What clients have sent."""
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def tries(self) -> list[int]:
        """The numbers by which OpenAI's and Anthropic's clients count the tries of their requests, in order."""
        return [int(number) for number in re.findall(rb"(?i)\r\nx-stainless-retry-count: (\d+)\r\n", self.heard)]

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        assert self._server
        self._server.close()
        self.reset_all()

    def blackhole(self) -> None:
        """Stops forwarding without closing anything: a half-open connection, as after a lost network."""
        self._flowing.clear()

    def heal(self) -> None:
        """Forwards again; what was held is delivered."""
        self._swallow.clear()
        self._flowing.set()

    def swallow_replies(self) -> None:
        """Lets commands through and drops the replies: the outcome of every write is unknown."""
        self._swallow.set()

    def reset_all(self) -> None:
        """Sends a TCP reset on every connection."""
        for writer in list(self._writers):
            _reset(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self._target_ports:
            self._target_ports.append(port := self._target_ports.pop(0))
            with contextlib.suppress(OSError):
                up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
                break
        else:
            _reset(writer)
            return
        pair = {writer, up_writer}
        self._writers |= pair
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, up_writer, from_client=True))
                group.create_task(self._pump(up_reader, writer, from_client=False))
        except* (OSError, EOFError):
            pass
        finally:
            self._writers -= pair
            for one in pair:
                one.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        while chunk := await reader.read(65536):
            await self._flowing.wait()
            if self.latency:
                await asyncio.sleep(self.latency)  # the fault itself, not synchronisation
            if from_client:
                self.heard += chunk
                self._chunks += 1
                if self.reset_every and self._chunks % self.reset_every == 0:
                    _reset(writer)
                    raise ConnectionResetError
            elif self._swallow.is_set():
                continue
            writer.write(chunk)
            await writer.drain()
        raise EOFError


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
