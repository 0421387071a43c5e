"""A server that speaks OpenAI's streaming chat API over the fake engine, for a proxy to stand before."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fake_engine import generate
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

app = FastAPI()
HEAD = '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"fake","choices":[{"index":0,"delta":'


@app.get("/")
def ready() -> str:
    return "ready"


@app.post("/v1/chat/completions")
async def chat(body: dict[str, Any]) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        async for token in generate(body["max_tokens"]):
            yield f'data: {HEAD}{{"role":"assistant","content":{json.dumps(token)}}},"finish_reason":null}}]}}\n\n'
        yield f'data: {HEAD}{{}},"finish_reason":"stop"}}]}}\n\ndata: [DONE]\n\n'

    return StreamingResponse(events(), media_type="text/event-stream")
