"""A fresh Valkey and a fresh set of processes for each test."""

from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from shared.settings import SharedSettings
from shared.store.event_stream import EventStream
from shared.store.keys import Keys
from testbed.history import check_client, check_quiet, check_stream
from testbed.silence import report_silence, silence_table
from testbed.stack import MODEL, Stack, stack
from testbed.valkey import Valkey


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Valkey]:
    server = Valkey(tmp_path / "valkey")
    yield server
    server.stop()


@pytest.fixture
def keys() -> Keys:
    return Keys(SharedSettings().key_prefix)


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[Redis]:
    client = Redis.from_url(valkey.url, retry=Retry(ConstantBackoff(0.1), 20))  # the tests stop and start the server
    yield client
    await client.aclose()


FAILED = pytest.StashKey[bool]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for report in terminalreporter.getreports("") if report.when == "teardown"]
    if rows := silence_table(reports):
        terminalreporter.section("tasks, and the longest silence that a client met")
        terminalreporter.write("".join(f"{row}\n" for row in rows))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    return report


@pytest.fixture
async def headrace(
    valkey: Valkey, redis: Redis, keys: Keys, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[Stack]:
    """One API replica so far; at its end every history that the test made is judged, and every reply of the doors for
    other people's clients."""
    async with stack(valkey.url, tmp_path) as running:
        await running.start_api()
        yield running
        if request.node.stash.get(FAILED, False):
            print(running.logs())
            for history in running.histories:
                print(history.describe())
            return
        report_silence(request, running)
        assert not running.faults.exists(), f"replies not as their documents say:\n{running.faults.read_text()}"
        stream = EventStream(redis, keys)
        for history in running.histories:
            check_client(history, history.expected)
            await check_stream(stream, history.task_id)
        await check_quiet(redis, keys, MODEL)
