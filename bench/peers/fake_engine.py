"""One token every TOKEN_MS milliseconds per stream, on schedule; 0: as fast as the server takes them."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator

TOKEN_MS = float(os.environ.get("TOKEN_MS", "20"))
TOKEN = " token"


async def generate(tokens: int) -> AsyncIterator[str]:
    begin = time.monotonic()
    for number in range(1, tokens + 1):
        await asyncio.sleep(max(0.0, begin + number * TOKEN_MS / 1000 - time.monotonic()))
        yield TOKEN


def generate_blocking(tokens: int) -> Iterator[str]:
    """For servers that run a generator in a thread."""
    begin = time.monotonic()
    for number in range(1, tokens + 1):
        time.sleep(max(0.0, begin + number * TOKEN_MS / 1000 - time.monotonic()))
        yield TOKEN
