"""BentoML over the fake engine: an async generator of SSE lines."""

from collections.abc import AsyncGenerator
from typing import Any

import bentoml
from fake_engine import generate


@bentoml.service(workers=1, traffic={"timeout": 600, "concurrency": 5000}, metrics={"enabled": False})
class Fake:
    @bentoml.api
    async def generate(self, tokens: int, messages: list[dict[str, Any]]) -> AsyncGenerator[str, None]:
        index = 0
        async for token in generate(tokens):
            index += 1
            yield f'id: 1-{index}\nevent: token\ndata: {{"text": "{token}", "index": {index}}}\n\n'
