"""A client that reads one stream and notes how old each token is."""

import asyncio
import re
import time

TOKEN = re.compile(rb"id: 1-(\d+)\nevent: token\n")


class StreamClient(asyncio.Protocol):
    """One open stream."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.sent: dict[int, float] = {}
        """Token number -> time of its write."""
        self.latencies: list[float] = []
        self.tokens = self.chunks = 0
        self.opened = asyncio.get_running_loop().create_future()
        self._rest = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(f"GET /stream/{self.task_id} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self.chunks += 1
        if not self.opened.done() and b"STARTED" in data:
            self.opened.set_result(None)
        data = self._rest + data
        end = 0
        for match in TOKEN.finditer(data):
            self.tokens += 1
            self.latencies.append(now - self.sent.pop(int(match[1])))
            end = match.end()
        self._rest = data[max(end, len(data) - 60) :]

    async def connect(self, port: int) -> None:
        await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", port)
