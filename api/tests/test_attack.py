"""Requests that nobody means well, at every door: each is answered, in time, and none is a fault of the server.

`ATTACKS=100000 .venv/bin/python -m pytest api/tests/test_attack.py` sends as many of each kind.
"""

import asyncio
import copy
import json
import os
import random
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from api.tenants.key_file import sha256_of
from testbed.api_app import StartApp
from testbed.fake_worker import DEFAULT_MODEL

ATTACKS = int(os.environ.get("ATTACKS", "150"))
SECONDS = 10
INTERNAL_ERROR = -32603

HEADERS = {"Authorization": "Bearer hr_k", "x-api-key": "hr_k", "Content-Type": "application/json"}
KEYS = {"keys": [{"id": "k", "tenant": "t", "sha256": sha256_of("hr_k")}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string", "pattern": "a+"}}, "required": ["a"]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": SCHEMA}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": "b"}'}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "s"},
    {"role": "user", "content": "u"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "r"},
]
MEANT_WELL: list[tuple[str, Any]] = [
    ("/rpc", {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": {
        "messages": MESSAGES, "tools": [TOOL], "toolChoice": "auto", "model": DEFAULT_MODEL, "maxTokens": 5, "seed": 1,
        "temperature": 1, "topP": 0.5, "topK": 5, "stop": ["x"], "priority": "low", "timeoutSeconds": 5,
        "idempotencyKey": "i", "metadata": {"a": "b"}, "cancelOnDisconnect": True, "loopPrevention": "off",
        "responseFormat": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}}),
    ("/rpc", {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": {
        "message": "hi", "history": MESSAGES, "conversationId": "c"}}),
    ("/rpc", [{"jsonrpc": "2.0", "id": 1, "method": "get_message", "params": {"taskId": "t"}},
              {"jsonrpc": "2.0", "id": "2", "method": "cancel_message", "params": ["t"]},
              {"jsonrpc": "2.0", "id": 3, "method": "usage", "params": {"days": 7, "tenant": "t"}},
              {"jsonrpc": "2.0", "id": None, "method": "stream_token", "params": {"taskId": "t"}},
              {"jsonrpc": "2.0", "method": "model_list"}]),
    ("/v1/chat/completions", {
        "model": DEFAULT_MODEL, "messages": MESSAGES, "tools": [TOOL], "tool_choice": "auto", "stream": True, "n": 1,
        "stream_options": {"include_usage": True}, "max_tokens": 5, "temperature": 1, "top_p": 0.5, "stop": "x",
        "metadata": {"a": "b"}, "parallel_tool_calls": False, "seed": 1, "logit_bias": {}, "user": "u",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}}}),
    ("/v1/messages", {
        "model": DEFAULT_MODEL, "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "stream": False,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "u"}]},
                     {"role": "assistant", "content": [{"type": "tool_use", "id": "c1", "name": "f", "input": {}}]},
                     {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c1", "content": "r"}]}],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}], "tool_choice": {"type": "auto"},
        "stop_sequences": ["x"], "temperature": 1, "top_k": 5, "metadata": {"user_id": "u"}}),
]  # fmt: skip

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 1e308, 5e-324, 0.5, "", " ", "a", "\0", "\u202e", "é" * 50,
    "x" * 5000, "{{ 7*7 }}", "{% for i in range(9) %}", "<|im_end|>", "<|im_start|>system", "../../etc/passwd",
    "' OR 1=1", "\r\nX-Injected: 1", "t:k", "}{", "*", "(a+)+$", "$ref", [], {}, [[]], [{}], {"": ""}, {"$ref": "#"},
    {"type": "object", "properties": {"a": {"$ref": "#"}}}, {"pattern": "(a|a)*b"}, {"allOf": [{"$ref": "#"}]},
    ["a"] * 200, {str(number): number for number in range(200)},
]  # fmt: skip


def spoilt(value: Any, chance: random.Random) -> Any:
    """The request with one to three places changed: replaced, removed, doubled, or wrapped."""
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        holder: Any = (root := [value])
        key: Any = 0
        while isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.85:
            holder = holder[key]
            key = chance.choice(list(holder)) if isinstance(holder, dict) else chance.randrange(len(holder))
        match chance.randrange(5):
            case 0 if holder is not root:
                del holder[key]
            case 1 if isinstance(holder, list) and holder is not root:
                holder.append(copy.deepcopy(holder[key]))
            case 1 if isinstance(holder, dict):
                holder[chance.choice(["", "x", "$ref", "type", "__proto__", "a" * 300])] = chance.choice(ODD)
            case 2:
                holder[key] = [holder[key]] * chance.randint(1, 3)
            case _:
                holder[key] = copy.deepcopy(chance.choice(ODD))
        value = root[0]
    return value


async def answered(http: httpx.AsyncClient, seed: int, method: str, path: str, **options: Any) -> None:
    """In time, and not with a fault of the server; `seed` made the request."""
    async with asyncio.timeout(SECONDS):
        reply = await http.request(method, path, **options)
    said = f"seed {seed}: {reply.status_code} {reply.text[:300]}"
    assert reply.status_code < 500, said
    assert f'"code":{INTERNAL_ERROR}' not in reply.text.replace(" ", ""), said
    assert "Traceback" not in reply.text, said
    assert "X-Injected" not in reply.headers, said


@pytest.fixture
async def full(start_app: StartApp) -> AsyncIterator[httpx.AsyncClient]:
    """A server with no room for any task: whatever passes all checks is refused by the ledger."""
    async with start_app(api_keys=KEYS, max_waiting=0) as http:
        yield http


@pytest.mark.parametrize("kind", range(len(MEANT_WELL)))
async def test_no_spoilt_request_is_a_fault_of_the_server(full: httpx.AsyncClient, kind: int) -> None:
    path, meant = MEANT_WELL[kind]
    for seed in range(ATTACKS):
        body = json.dumps(spoilt(meant, random.Random(seed))).encode()
        await answered(full, seed, "POST", path, content=body, headers=HEADERS)


@pytest.mark.parametrize("kind", range(len(MEANT_WELL)))
async def test_no_damaged_body_is_a_fault_of_the_server(full: httpx.AsyncClient, kind: int) -> None:
    path, meant = MEANT_WELL[kind]
    whole = json.dumps(meant).encode()
    for seed in range(ATTACKS):
        chance = random.Random(seed)
        body = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(body))
            body[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        await answered(full, seed, "POST", path, content=bytes(body), headers=HEADERS)


async def test_no_id_and_no_header_is_a_fault_of_the_server(full: httpx.AsyncClient) -> None:
    texts = [text for text in ODD if isinstance(text, str)]
    for seed in range(ATTACKS):
        chance = random.Random(seed)
        name = quote(chance.choice(texts) or "x", safe="")
        text = chance.choice(texts).encode("ascii", "ignore").replace(b"\r\n", b"").replace(b"\0", b"")[:4000]
        headers = {chance.choice(["Last-Event-ID", "x-request-id", "idempotency-key", "x-stainless-retry-count"]): text}
        path = chance.choice([f"/stream/{name}", f"/v1/models/{name}", f"/stream/{name}?stream_token={name}"])
        await answered(full, seed, "GET", path, headers={**HEADERS, **headers})
        await answered(full, seed, "POST", "/v1/chat/completions", content=b"{}", headers={**HEADERS, **headers})
