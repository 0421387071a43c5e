"""The oracle finds what is wrong: else all that it approves of says nothing."""

import json
from collections.abc import Iterable
from typing import Any

import httpx
import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from testbed.judged_app import JudgedApp

Json = dict[str, Any]

HEAD: Json = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
USAGE: Json = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
ERROR: Json = {"error": {"message": "no", "type": "server_error", "param": None, "code": None}}
WHOLE: Json = {
    "id": "c", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE, "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "x", "refusal": None}, "logprobs": None,
         "finish_reason": "stop"}
    ],
}  # fmt: skip


def chunk(delta: Json, finish: str | None = None, **more: Any) -> Json:
    return HEAD | {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]} | more


ROLE, TEXT, FINISH = chunk({"role": "assistant", "content": ""}), chunk({"content": "x"}), chunk({}, "stop")
COUNTED = HEAD | {"choices": [], "usage": USAGE}
CALL: Json = {"index": 0, "id": "i", "type": "function", "function": {"name": "f", "arguments": ""}}
REST: Json = {"index": 0, "function": {"arguments": "{}"}}
DONE = "data: [DONE]\n\n"


def frames(*events: Json, end: str = DONE) -> str:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events) + end


async def verdict(reply: ASGIApp, path: str = "/v1/chat/completions", method: str = "POST") -> list[str]:
    judged = JudgedApp(reply)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(judged), base_url="http://api") as http:
        await http.request(method, path)
    return judged.faults


def stream(text: str) -> Response:
    return StreamingResponse(iter([text[:7], text[7:]]), media_type="text/event-stream")


@pytest.mark.parametrize(
    "right",
    [
        [ROLE, TEXT, FINISH],
        [ROLE | {"usage": None}, FINISH | {"usage": None}, COUNTED],
        [ROLE, chunk({"tool_calls": [CALL]}), chunk({"tool_calls": [REST]}), chunk({}, "tool_calls")],
        [chunk({"role": "assistant", "content": None}), chunk({"reasoning": "hm"}), FINISH],
    ],
)
async def test_a_stream_as_clients_know_it_passes(right: list[Json]) -> None:
    assert await verdict(stream(": comment\n\n" + frames(*right))) == []


async def test_a_stream_that_ends_in_an_error_passes() -> None:
    assert await verdict(stream(frames(ROLE, ERROR, end=""))) == []


@pytest.mark.parametrize(
    ("wrong", "fault"),
    [
        (frames(ROLE, TEXT), "[DONE] before the finish"),
        (frames(ROLE, FINISH, end=""), "clean end"),
        (frames(ROLE, FINISH, end="data: {"), "middle of an event"),
        (frames(TEXT, FINISH), "role"),
        (frames(ROLE, ROLE, FINISH), "role"),
        (frames(ROLE, FINISH, TEXT), "behind the finish"),
        (frames(ROLE, chunk({"content": "x"}, "stop")), "delta of its own"),
        (frames(ROLE, COUNTED, FINISH), "usage before the finish"),
        (frames(ROLE, FINISH | {"id": "d"}), "another head"),
        (frames(ROLE, FINISH, ERROR) + DONE, "behind the end"),
        (frames(ROLE, chunk({"tool_calls": [CALL]}), chunk({"tool_calls": [CALL]}), FINISH), "later delta of a call"),
        (frames(ROLE, chunk({"tool_calls": [REST]}), FINISH), "first delta of a call"),
        (frames(ROLE, chunk({}, "stop_sequence")), "stop_sequence"),
        (frames(ROLE, chunk({"contents": "x"}), FINISH), "contents"),
        (frames(ROLE | {"system_fingerprint": None}, FINISH | {"system_fingerprint": None}), "system_fingerprint"),
        ("id: 1-1\n" + frames(ROLE, FINISH), "stumble"),
        ("retry: 100\n" + frames(ROLE, FINISH), "stumble"),
    ],
)
async def test_what_is_wrong_with_a_stream_is_found(wrong: str, fault: str) -> None:
    assert fault in "\n".join(await verdict(stream(wrong)))


@pytest.mark.parametrize(
    ("body", "status", "fault"),
    [
        (WHOLE, 200, None),
        (WHOLE | {"made_up": 1}, 200, "made_up"),
        (WHOLE | {"choices": []}, 200, None),
        ({name: value for name, value in WHOLE.items() if name != "created"}, 200, "created"),
        (ERROR, 503, None),
        ({"detail": "Not Found"}, 404, "error"),
        (WHOLE, 400, "error"),
    ],
)
async def test_replies_of_one_piece_are_judged(body: Json, status: int, fault: str | None) -> None:
    faults = await verdict(Response(json.dumps(body), status))
    assert (not faults) if fault is None else (fault in "\n".join(faults))


def message_events(*leave_out: str) -> Iterable[Json]:
    message: Json = {
        "id": "msg", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None,
        "stop_sequence": None, "stop_details": None, "container": None, "usage": {
            "input_tokens": 1, "output_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0,
            "cache_creation": None, "output_tokens_details": None, "server_tool_use": None, "service_tier": "standard",
            "inference_geo": None,
        },
    }  # fmt: skip
    counts = {name: message["usage"][name] for name in message["usage"] if name != "cache_creation"}
    del counts["service_tier"], counts["inference_geo"]
    ending = {"stop_reason": "end_turn", "stop_sequence": None, "stop_details": None, "container": None}
    events: list[Json] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "x"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": ending, "usage": counts},
        {"type": "message_stop"},
    ]
    return [event for event in events if event["type"] not in leave_out]


@pytest.mark.parametrize(
    ("leave_out", "fault"),
    [
        ("", None),
        ("message_start", "begins with"),
        ("content_block_start", "block None is open"),
        ("content_block_stop", "block 0 is open"),
        ("message_delta", "behind message_delta"),
        ("message_stop", "clean end"),
    ],
)
async def test_the_order_of_a_message_is_judged(leave_out: str, fault: str | None) -> None:
    text = "".join(f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in message_events(leave_out))
    faults = await verdict(stream(text), "/v1/messages")
    assert (not faults) if fault is None else (fault in "\n".join(faults))


async def test_headraces_own_routes_are_not_judged() -> None:
    assert await verdict(Response("hello"), "/rpc") == []


async def test_a_judge_tells_each_fault_at_once() -> None:
    told: list[str] = []
    judged = JudgedApp(stream(frames(ROLE, end="")), told.append)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(judged), base_url="http://api") as http:
        await http.post("/v1/chat/completions")
    assert "a clean end without the last event" in told[0]
    judged.check()
