"""FastAPI + sse-starlette over the fake engine; also without sse-starlette, to see what it costs."""

import json
from collections.abc import AsyncIterator
from typing import Any

from fake_engine import generate
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse

app = FastAPI()


@app.get("/")
def ready() -> str:
    return "ready"


@app.post("/generate")
async def sse(body: dict[str, Any]) -> EventSourceResponse:
    async def events() -> AsyncIterator[dict[str, str]]:
        index = 0
        async for token in generate(body["tokens"]):
            index += 1
            yield {"event": "token", "id": f"1-{index}", "data": json.dumps({"text": token, "index": index})}

    return EventSourceResponse(events())


@app.post("/plain")
async def plain(body: dict[str, Any]) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        index = 0
        async for token in generate(body["tokens"]):
            index += 1
            yield f"id: 1-{index}\nevent: token\ndata: {json.dumps({'text': token, 'index': index})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")
