"""Both clients of the SDK behind one face, so that one test asks the same of both."""

import asyncio
from typing import Any

from headrace import AsyncClient, Client


class SyncFace:
    """`Client`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        with Client(self._url, api_key="key") as client:
            result = getattr(client, method)(*arguments, **options)
            return list(result) if method == "stream" else result


class AsyncFace:
    """`AsyncClient`."""

    def __init__(self, url: str) -> None:
        self._url = url

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        async def call() -> Any:
            async with AsyncClient(self._url, api_key="key") as client:
                result = getattr(client, method)(*arguments, **options)
                return [event async for event in result] if method == "stream" else await result

        return asyncio.run(call())


Face = SyncFace | AsyncFace
