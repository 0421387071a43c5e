"""The design that Headrace replaces: a Celery task around `generate`, polled every 0.5 s, sent at the end."""

import asyncio
import functools
import json
import os
from collections.abc import AsyncIterator
from typing import Any

from celery import Celery
from celery.result import AsyncResult
from fastapi import FastAPI, Response
from sse_starlette import EventSourceResponse

app = Celery("replaced", broker=os.environ["REDIS_URL"], backend=os.environ["REDIS_URL"])
app.conf.update(worker_prefetch_multiplier=1, task_acks_late=True)
api = FastAPI()


@functools.cache
def model_and_tokenizer() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = os.environ["MODEL"]
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)


@app.task(name="generate")
def generate(messages: list[dict[str, Any]], max_tokens: int) -> dict[str, Any]:
    model, tokenizer = model_and_tokenizer()
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return {"text": tokenizer.decode(new, skip_special_tokens=True), "tokens": len(new)}


@api.get("/ready")
async def ready() -> Response:
    """Once the worker has loaded the model and answered one word."""
    task = generate.delay([{"role": "user", "content": "Say yes."}], 1)
    for _ in range(600):
        if task.ready():
            return Response("ready")
        await asyncio.sleep(0.1)
    return Response(status_code=503)


@api.post("/tasks")
def start(body: dict[str, Any]) -> dict[str, str]:
    return {"task_id": generate.delay(body["messages"], body["max_tokens"]).id}


@api.get("/tasks/{task_id}")
async def result(task_id: str) -> EventSourceResponse:
    async def events() -> AsyncIterator[str]:
        task = AsyncResult(task_id, app=app)
        while not await asyncio.to_thread(task.ready):  # noqa: ASYNC110  # polling is the design
            await asyncio.sleep(0.5)
        yield json.dumps(task.get())

    return EventSourceResponse(events())
