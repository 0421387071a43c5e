"""JSON-RPC 2.0, example by example of its specification, and what lies beside them."""

import asyncio
import json
from typing import Any

import pytest
from pydantic import JsonValue

from api.errors import TaskNotFound
from api.rpc.jsonrpc import Limits, Method, answer


async def _subtract(_: None, params: dict[str, JsonValue]) -> JsonValue:
    minuend, subtrahend = params["minuend"], params["subtrahend"]
    assert isinstance(minuend, int)
    assert isinstance(subtrahend, int)
    return minuend - subtrahend


async def _sum(_: None, params: dict[str, JsonValue]) -> JsonValue:
    return sum(value for value in params.values() if isinstance(value, int))


async def _nothing(_: None, params: dict[str, JsonValue]) -> JsonValue:
    return None


async def _get_data(_: None, params: dict[str, JsonValue]) -> JsonValue:
    return ["hello", 5]


async def _refuse(_: None, params: dict[str, JsonValue]) -> JsonValue:
    raise TaskNotFound


async def _crash(_: None, params: dict[str, JsonValue]) -> JsonValue:
    raise RuntimeError("secret detail")


async def _echo(_: None, params: dict[str, JsonValue]) -> JsonValue:
    return params


METHODS: dict[str, Method[None]] = {
    "subtract": Method(_subtract, ("minuend", "subtrahend")),
    "sum": Method(_sum, ("a", "b", "c")),
    "update": Method(_nothing, ("a", "b", "c", "d", "e")),
    "foobar": Method(_nothing),
    "notify_sum": Method(_sum, ("a", "b", "c")),
    "notify_hello": Method(_nothing, ("a",)),
    "get_data": Method(_get_data),
    "refuse": Method(_refuse),
    "crash": Method(_crash),
    "echo": Method(_echo, ("a", "b", "c")),
}


async def reply(body: str | bytes, limits: Limits | None = None) -> Any:
    sent = await answer(body.encode() if isinstance(body, str) else body, METHODS, None, limits)
    return None if sent is None else json.loads(sent)


def bare(reply: Any) -> Any:
    """A reply with our error's own words and data taken out: what the specification fixes."""
    if isinstance(reply, list):
        return [bare(part) for part in reply]
    if isinstance(reply, dict) and "error" in reply:
        assert set(reply["error"]) == {"code", "message", "data"}
        return reply | {"error": reply["error"]["code"]}
    return reply


SPECIFICATION: dict[str, tuple[str, object]] = {
    "positional parameters": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
        {"jsonrpc": "2.0", "result": 19, "id": 1},
    ),
    "positional parameters, swapped": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
        {"jsonrpc": "2.0", "result": -19, "id": 2},
    ),
    "named parameters": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
        {"jsonrpc": "2.0", "result": 19, "id": 3},
    ),
    "named parameters, swapped": (
        '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
        {"jsonrpc": "2.0", "result": 19, "id": 4},
    ),
    "a notification": ('{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}', None),
    "a notification without parameters": ('{"jsonrpc": "2.0", "method": "foobar"}', None),
    "call of a non-existent method": (
        '{"jsonrpc": "2.0", "method": "foobaz", "id": "1"}',
        {"jsonrpc": "2.0", "error": -32601, "id": "1"},
    ),
    "invalid JSON": (
        '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
        {"jsonrpc": "2.0", "error": -32700, "id": None},
    ),
    "invalid request object": (
        '{"jsonrpc": "2.0", "method": 1, "params": "bar"}',
        {"jsonrpc": "2.0", "error": -32600, "id": None},
    ),
    "a batch of invalid JSON": (
        '[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"}, {"jsonrpc": "2.0", "method"]',
        {"jsonrpc": "2.0", "error": -32700, "id": None},
    ),
    "an empty array": ("[]", {"jsonrpc": "2.0", "error": -32600, "id": None}),
    "an invalid batch, not empty": ("[1]", [{"jsonrpc": "2.0", "error": -32600, "id": None}]),
    "an invalid batch": ("[1,2,3]", [{"jsonrpc": "2.0", "error": -32600, "id": None}] * 3),
    "a batch": (
        """[
            {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
            {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
            {"foo": "boo"},
            {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
            {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
        ]""",
        [
            {"jsonrpc": "2.0", "result": 7, "id": "1"},
            {"jsonrpc": "2.0", "result": 19, "id": "2"},
            {"jsonrpc": "2.0", "error": -32600, "id": None},
            {"jsonrpc": "2.0", "error": -32601, "id": "5"},
            {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"},
        ],
    ),
    "a batch of notifications": (
        """[
            {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
            {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
        ]""",
        None,
    ),
}


@pytest.mark.parametrize("example", SPECIFICATION)
async def test_each_example_of_the_specification_gets_its_reply(example: str) -> None:
    request, expected = SPECIFICATION[example]
    assert bare(await reply(request)) == expected


NOT_JSON = {
    "nothing": b"",
    "invalid UTF-8": b'{"jsonrpc": "2.0", "method": "\xff\xfe", "id": 1}',
    "another encoding": '{"jsonrpc": "2.0", "method": "foobar", "id": 1}'.encode("utf-16"),
    "a lone surrogate": b'{"jsonrpc": "2.0", "method": "\\ud800", "id": 1}',
    "NaN": b'{"jsonrpc": "2.0", "method": "echo", "params": [NaN], "id": 1}',
    "Infinity": b'{"jsonrpc": "2.0", "method": "echo", "params": [-Infinity], "id": 1}',
    "a number beyond all bounds": b'{"jsonrpc": "2.0", "method": "echo", "params": [1e400], "id": 1}',
    "a long number beyond all bounds": b'{"jsonrpc": "2.0", "method": "echo", "params": [1%b.0], "id": 1}'
    % (b"0" * 400),
    "a number of 5000 digits": b'{"jsonrpc": "2.0", "method": "echo", "params": [%b], "id": 1}' % (b"9" * 5000),
    "deep lists": b"[" * 100_000,
    "deep lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "something behind it": b'{"jsonrpc": "2.0", "method": "foobar", "id": 1} x',
    "a control character in text": b'{"jsonrpc": "2.0", "method": "foo\nbar", "id": 1}',
}


@pytest.mark.parametrize("case", NOT_JSON)
async def test_what_is_not_json_is_a_parse_error(case: str) -> None:
    answered = await reply(NOT_JSON[case])
    assert bare(answered) == {"jsonrpc": "2.0", "error": -32700, "id": None}
    assert answered["error"]["data"] == {"retryable": False}


INVALID = {
    "a bare value": ("1", None),
    "null": ("null", None),
    "no version": ('{"method": "echo", "id": 7}', 7),
    "another version": ('{"jsonrpc": "1.0", "method": "echo", "id": "x"}', "x"),
    "a number as version": ('{"jsonrpc": 2.0, "method": "echo", "id": 1}', 1),
    "no method": ('{"jsonrpc": "2.0", "id": 1}', 1),
    "params null": ('{"jsonrpc": "2.0", "method": "echo", "params": null, "id": 1}', 1),
    "params text": ('{"jsonrpc": "2.0", "method": "echo", "params": "x", "id": 1}', 1),
    "id true": ('{"jsonrpc": "2.0", "method": "echo", "id": true}', None),
    "id a list": ('{"jsonrpc": "2.0", "method": "echo", "id": [1]}', None),
    "id an object": ('{"jsonrpc": "2.0", "method": "echo", "id": {}}', None),
    "an invalid notification": ('{"jsonrpc": "2.0", "method": "echo", "params": 5}', None),
}


@pytest.mark.parametrize("case", INVALID)
async def test_what_is_no_request_is_an_invalid_request(case: str) -> None:
    request, request_id = INVALID[case]
    assert bare(await reply(request)) == {"jsonrpc": "2.0", "error": -32600, "id": request_id}


@pytest.mark.parametrize("request_id", ["null", "0", "-1", "1.5", '"x"', '""', '"é\\u00e9"', str(2**70)])
async def test_the_id_comes_back_as_it_was_sent(request_id: str) -> None:
    sent = json.loads(request_id)
    answered = await reply(f'{{"jsonrpc": "2.0", "method": "foobar", "id": {request_id}}}')
    assert answered == {"jsonrpc": "2.0", "result": None, "id": sent}
    assert type(answered["id"]) is type(sent)


async def test_a_request_with_id_null_is_no_notification() -> None:
    assert await reply('{"jsonrpc": "2.0", "method": "get_data", "id": null}') == {
        "jsonrpc": "2.0",
        "result": ["hello", 5],
        "id": None,
    }


@pytest.mark.parametrize("method", ["refuse", "crash", "unknown"])
async def test_a_notification_that_fails_gets_no_reply(method: str) -> None:
    assert await reply(f'{{"jsonrpc": "2.0", "method": "{method}"}}') is None


async def test_of_duplicate_keys_the_last_counts() -> None:
    answered = await reply('{"jsonrpc": "2.0", "id": 1, "method": "crash", "method": "get_data", "id": 2}')
    assert answered == {"jsonrpc": "2.0", "result": ["hello", 5], "id": 2}


async def test_unknown_members_of_the_envelope_are_ignored() -> None:
    assert (await reply('{"jsonrpc": "2.0", "id": 1, "method": "get_data", "auth": "x"}'))["result"] == ["hello", 5]


async def test_null_in_positional_parameters_means_not_given() -> None:
    answered = await reply('{"jsonrpc": "2.0", "id": 1, "method": "echo", "params": [null, 2]}')
    assert answered["result"] == {"b": 2}


async def test_too_many_positional_parameters_are_invalid_params() -> None:
    answered = await reply('{"jsonrpc": "2.0", "id": 1, "method": "subtract", "params": [1, 2, 3]}')
    assert answered["error"]["code"] == -32602
    assert "minuend, subtrahend" in answered["error"]["message"]


async def test_an_unexpected_exception_is_logged_and_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    answered = await reply('{"jsonrpc": "2.0", "id": 1, "method": "crash"}')
    assert answered["error"]["code"] == -32603
    assert "secret" not in json.dumps(answered)
    assert "secret detail" in caplog.text
    assert "Traceback" in caplog.text


async def test_members_of_a_batch_run_at_the_same_time_up_to_the_bound_and_answer_in_order() -> None:
    running = most = 0
    full = asyncio.Event()

    async def meet(_: None, params: dict[str, JsonValue]) -> JsonValue:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 3:
            full.set()
        async with asyncio.timeout(5):
            await full.wait()
        await asyncio.sleep(0)
        running -= 1
        return params["a"]

    batch = [{"jsonrpc": "2.0", "id": number, "method": "meet", "params": [number]} for number in range(10)]
    sent = await answer(
        json.dumps(batch).encode(), {"meet": Method(meet, ("a",))}, None, Limits(max_batch=10, concurrency=3)
    )
    assert sent is not None
    assert [part["result"] for part in json.loads(sent)] == list(range(10))
    assert most == 3


async def test_a_batch_longer_than_the_bound_is_refused_as_a_whole() -> None:
    request = '{"jsonrpc": "2.0", "method": "get_data", "id": 1}'
    assert len(await reply(f"[{request},{request}]", Limits(max_batch=2))) == 2
    refused = await reply(f"[{request},{request},{request}]", Limits(max_batch=2))
    assert bare(refused) == {"jsonrpc": "2.0", "error": -32600, "id": None}
    assert "at most 2" in refused["error"]["message"]


async def test_a_long_method_name_is_not_repeated_in_full() -> None:
    answered = await reply(json.dumps({"jsonrpc": "2.0", "id": 1, "method": "x" * 100_000}))
    assert answered["error"]["code"] == -32601
    assert len(answered["error"]["message"]) < 300
