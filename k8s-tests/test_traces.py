"""One task is one trace, from the caller's span through the API's pod to the worker's, also when a worker is lost."""

from typing import Any

import httpx

from testbed.history import check_client

from .cluster import until
from .release import SEED, Reader, Release, scripted_text
from .scripted_values import SCRIPT

CALLER = "b7ad6b7169203331"
SEND, PROCESS, CHAT = f"send {SCRIPT}.normal", f"process {SCRIPT}", f"chat {SCRIPT}"
EXPORT_SECONDS = 60.0

Json = dict[str, Any]


def ask(release: Release, trace: str, words: int) -> Reader:
    """As a caller that is itself a span of this trace."""
    params = {"model": SCRIPT, "message": f"!tokens {words}", "seed": SEED, "maxTokens": 8000}
    reply = httpx.post(
        f"{next(iter(release.doors))}/rpc",
        json={"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": params},
        headers={"traceparent": f"00-{trace}-{CALLER}-01"},
        timeout=60,
    ).json()
    assert "result" in reply, reply
    return Reader(release.doors, reply["result"]["taskId"])


def spans_of(release: Release, receiver: str, trace: str, count: int) -> list[Json]:
    """By their begin; without those of requests that read the stream."""

    def spans() -> list[Json]:
        logged = release.cluster.log_objects(receiver)
        ours = [span for span in logged if span["trace_id"] == trace and not span["name"].startswith("GET ")]
        return sorted(ours, key=lambda span: float(span["begin"]))

    until(lambda: len(spans()) >= count, EXPORT_SECONDS, f"{count} spans of trace {trace}")
    return spans()


def test_one_task_is_one_trace_over_all_pods(scripted: Release, otlp: str) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    check_client(ask(scripted, trace, 20).finish(), scripted_text(20))
    spans = spans_of(scripted, otlp, trace, 4)
    parents = {span["span_id"]: span["name"] for span in spans} | {CALLER: "caller"}
    assert [(span["service"], span["kind"], span["name"], parents[span["parent_id"]]) for span in spans] == [
        ("headrace-api", "SERVER", "POST /rpc", "caller"),
        ("headrace-api", "PRODUCER", SEND, "POST /rpc"),
        ("headrace-worker", "CONSUMER", PROCESS, SEND),
        ("headrace-worker", "INTERNAL", CHAT, PROCESS),
    ]


def test_the_attempts_of_two_worker_pods_are_siblings_in_one_trace(scripted: Release, otlp: str) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    reader = ask(scripted, trace, 600)
    reader.until_tokens(20)
    scripted.cluster.delete_pod(scripted.holder(reader.history), at_once=True)
    check_client(reader.finish(), scripted_text(600))
    spans = spans_of(scripted, otlp, trace, 5)
    attempts = [span for span in spans if span["name"] == PROCESS]
    assert [span["attributes"]["headrace.attempt"] for span in attempts] == [1, 2]
    assert len({span["parent_id"] for span in attempts}) == 1
    assert attempts[1]["links"] == [[trace, attempts[0]["span_id"]]]
