"""What a real OTLP receiver gets to see of one task: the whole tree, also when a worker dies in the middle of it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed.draws import MET, REFUSED, UNIQUE, draws
from testbed.otlp_receiver import Receiver, Span, otlp_receiver
from testbed.ports import free_port
from testbed.stack import MODEL, Stack, stack
from testbed.valkey import Valkey
from testbed.waiting import until

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = "b7ad6b7169203331"
QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}
ANY_ORDER = 5.0
"""Seconds within which all spans of a finished task have arrived."""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with otlp_receiver() as running:
        yield running


@pytest.fixture
async def traced(valkey: Valkey, tmp_path: Path, receiver: Receiver) -> AsyncIterator[Stack]:
    """An API that speaks OTLP over HTTP and a worker that speaks it over gRPC."""
    async with stack(valkey.url, tmp_path, **QUICK) as running:
        await running.start_api(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_url)
        await start_worker(running, receiver)
        running.client.headers["traceparent"] = f"00-{TRACE}-{CALLER}-01"
        try:
            yield running
        finally:
            print(running.logs())


async def start_worker(running: Stack, receiver: Receiver) -> None:
    await running.start_worker(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.grpc_url,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=test",
        HEADRACE_DRAIN_SECONDS="0",
    )


async def tree(receiver: Receiver, count: int) -> list[Span]:
    """The task's spans, without those of the requests that read its stream."""

    def spans() -> list[Span]:
        return [span for span in receiver.of_trace(TRACE) if not span.name.startswith("GET ")]

    await until(lambda: len(spans()) >= count, ANY_ORDER, f"{count} spans")
    await asyncio.sleep(0.3)  # more than the exporters' delay: nothing else may come
    return spans()


def shape(spans: list[Span]) -> list[tuple[str, str, str, str]]:
    """Service, kind, name and the parent's name of each span."""
    parents = {span.span_id: span.name for span in spans} | {CALLER: "caller"}
    return [(span.service, span.kind, span.name, parents[span.parent_id]) for span in spans]


def only(spans: list[Span], **wanted: Any) -> Span:
    found = [span for span in spans if all(getattr(span, name) == value for name, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


SEND, PROCESS, CHAT = f"send {MODEL}.normal", f"process {MODEL}", f"chat {MODEL}"
ONE_TASK = [
    ("headrace-api", "SERVER", "POST /rpc", "caller"),
    ("headrace-api", "PRODUCER", SEND, "POST /rpc"),
    ("headrace-worker", "CONSUMER", PROCESS, SEND),
    ("headrace-worker", "INTERNAL", CHAT, PROCESS),
]


async def test_one_task_is_one_trace_from_the_caller_to_the_last_token(traced: Stack, receiver: Receiver) -> None:
    history = await traced.submit(words=20)
    del traced.client.headers["traceparent"]  # the reader of the stream is somebody else
    await traced.follow(history)
    assert history.state == "SUCCESS"
    spans = await tree(receiver, 4)
    assert shape(spans) == ONE_TASK

    process, chat = spans[2:]
    assert process.attributes["headrace.attempt"] == 1
    assert process.attributes["headrace.task.id"] == history.task_id
    assert not process.links
    assert chat.attributes["gen_ai.operation.name"] == "chat"
    assert chat.attributes["gen_ai.request.model"] == MODEL
    assert chat.attributes["gen_ai.usage.output_tokens"] == 21  # the end-of-sequence token is one
    assert chat.begin <= chat.events["admitted"] <= chat.events["first_token"] <= chat.end
    assert not any(span.failed for span in spans)

    stream = only(receiver.spans, name="GET /stream/{task_id}")
    assert stream.trace_id != TRACE
    assert stream.links == [(TRACE, spans[1].span_id)]
    assert len([span for span in receiver.spans if span.trace_id == stream.trace_id]) == 1  # none per event


async def test_the_attempt_of_a_killed_worker_and_the_one_that_took_over_are_siblings(
    traced: Stack, receiver: Receiver
) -> None:
    await start_worker(traced, receiver)
    history = await traced.submit(words=150)
    following = await traced.until_tokens(history, 5)
    (await traced.holder(history)).kill()
    await following
    assert history.state == "SUCCESS"
    server, send, lost, taken, chat = await tree(receiver, 5)
    assert [lost.parent_id, taken.parent_id] == [send.span_id] * 2
    assert [lost.name, taken.name] == [PROCESS] * 2
    assert [lost.attributes["headrace.attempt"], taken.attributes["headrace.attempt"]] == [1, 2]
    assert lost.failed
    assert lost.service == "headrace-api"  # the janitor's replica tells it: the dead do not
    assert taken.links == [(TRACE, lost.span_id)]
    assert lost.end <= taken.begin
    assert chat.parent_id == taken.span_id
    assert chat.attributes["headrace.earlier_tokens"]
    assert server.parent_id == CALLER


async def test_an_engine_that_dies_leaves_two_attempts_with_their_spans(traced: Stack, receiver: Receiver) -> None:
    history = await traced.submit("!crash 3", words=10)
    await traced.follow(history)
    assert history.state == "FAILURE"  # it dies at the same token each time
    (error,) = history.of("error")
    assert error.data["code"] == "poisoned"
    assert error.data["traceId"] == TRACE
    spans = [span for span in await tree(receiver, 8) if span.name == PROCESS]
    assert [span.attributes["headrace.attempt"] for span in spans] == [1, 2, 3]
    assert [span.attributes["headrace.attempt.outcome"] for span in spans] == ["crash"] * 3
    assert [span.links for span in spans[1:]] == [[(TRACE, before.span_id)] for before in spans[:-1]]
    assert len({span.parent_id for span in spans}) == 1


async def test_a_handover_is_an_event_of_the_inference_and_the_next_attempt_links_to_it(
    traced: Stack, receiver: Receiver
) -> None:
    await start_worker(traced, receiver)
    history = await traced.submit(words=150)
    following = await traced.until_tokens(history, 5)
    (await traced.holder(history)).send(signal.SIGTERM)
    await following
    assert history.state == "SUCCESS"
    _, send, given, first, taken, second = sorted(await tree(receiver, 6), key=lambda span: span.begin)
    assert [span.name for span in (given, first, taken, second)] == [PROCESS, CHAT, PROCESS, CHAT]
    assert given.attributes["headrace.attempt.outcome"] == "handover"
    assert first.begin < first.events["handover"] <= first.end
    assert [given.parent_id, taken.parent_id] == [send.span_id] * 2
    assert taken.links == [(TRACE, given.span_id)]
    assert second.attributes["headrace.earlier_tokens"]


async def test_a_redraw_is_an_event_of_the_attempt_whose_answer_was_refused(traced: Stack, receiver: Receiver) -> None:
    text, seed = draws([REFUSED, MET])
    document = {"type": "json_schema", "json_schema": {"name": "x", "schema": UNIQUE}}
    history = await traced.submit(text, seed=seed, responseFormat=document)
    await traced.follow(history)
    assert history.state == "SUCCESS"
    spans = sorted(await tree(receiver, 6), key=lambda span: span.begin)
    refused, met = [span for span in spans if span.name == PROCESS]
    assert refused.begin < refused.events["redraw"] <= refused.end
    assert refused.attributes["headrace.attempt.outcome"] == "finished"
    assert "redraw" not in met.events
    assert met.links == [(TRACE, refused.span_id)]


async def test_a_cancellation_is_an_event_of_the_inference(traced: Stack, receiver: Receiver) -> None:
    history = await traced.submit(words=2000)
    following = await traced.until_tokens(history, 5)
    await traced.rpc("cancel_message", {"taskId": history.task_id})
    await following
    assert history.state == "REVOKED"
    spans = await tree(receiver, 5)  # with the request that cancels
    chat = only(spans, name=CHAT)
    assert chat.begin < chat.events["cancelled"] <= chat.end
    assert only(spans, name=PROCESS).attributes["headrace.attempt.outcome"] == "cancelled"


async def test_access_tokens_in_query_strings_do_not_leave_the_process(traced: Stack, receiver: Receiver) -> None:
    await traced.client.get(f"{traced.urls[0]}/stream/nothing", params={"access_token": "s3cret"})
    await until(lambda: bool(receiver.of_trace(TRACE)), ANY_ORDER, "the request's span")
    assert "s3cret" not in str(receiver.spans)


async def test_probes_and_scrapes_leave_no_span(traced: Stack, receiver: Receiver) -> None:
    port = free_port()
    await traced.start_api(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.http_url, HEADRACE_INTERNAL_PORT=str(port))
    for path in ("healthz", "readyz", "metrics"):
        await traced.client.get(f"http://127.0.0.1:{port}/{path}")
    await traced.client.get(f"{traced.urls[-1]}/stream/nothing")
    await until(lambda: any("/stream" in span.name for span in receiver.spans), ANY_ORDER, "a later request's span")
    assert not [span.name for span in receiver.spans if "stream" not in span.name and "openapi" not in span.name]
