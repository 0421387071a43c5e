import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge

from worker.status.health import InternalServer


class Worker:
    """What the checks say."""

    sick = ""
    unready = ""


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def url(worker: Worker) -> Iterator[str]:
    registry = CollectorRegistry()
    Gauge("headrace_answer", "of everything", registry=registry).set(42)
    server = InternalServer("127.0.0.1", 0, lambda: worker.sick, lambda: worker.unready, registry)
    yield f"http://127.0.0.1:{server.port}"
    server.close()


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_healthy_worker_says_ok(url: str) -> None:
    assert fetch(f"{url}/healthz") == (200, "ok\n")
    assert fetch(f"{url}/readyz") == (200, "ok\n")


def test_a_worker_that_does_not_consume_says_why_and_asks_for_its_restart(url: str, worker: Worker) -> None:
    worker.sick = "the event loop does not turn"

    assert fetch(f"{url}/healthz") == (503, "the event loop does not turn\n")


def test_a_worker_whose_engine_loads_is_alive_and_not_ready(url: str, worker: Worker) -> None:
    worker.unready = "not taking tasks: loading weights"

    assert fetch(f"{url}/healthz")[0] == 200
    assert fetch(f"{url}/readyz") == (503, "not taking tasks: loading weights\n")


def test_metrics_and_unknown_paths(url: str) -> None:
    status, text = fetch(f"{url}/metrics")
    assert status == 200
    assert "headrace_answer 42.0" in text
    assert fetch(f"{url}/other")[0] == 404


def test_a_port_that_is_taken_is_an_error_at_once(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with pytest.raises(OSError, match="in use"):
        InternalServer("127.0.0.1", port, lambda: "", lambda: "", CollectorRegistry())
