"""The chat page when things break: the text goes on where it was, and no word is missing or repeated."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

import psutil
import pytest
from redis.asyncio import Redis

from shared.settings import SharedSettings
from shared.store.keys import Keys
from shared.store.worker_registry import WorkerRegistry
from testbed.browser import Browser
from testbed.chat_page import ANSWER, ChatPage
from testbed.up_process import Up
from testbed.worker_process import engine_of

pytestmark = pytest.mark.needs("chromium", "chromedriver")

LONG = "!slow 15\n!tokens 150"
"""Three seconds."""


def whole(page: ChatPage) -> None:
    """The answer that is shown is the one that the server has."""
    shown = page.answer()
    task = page.task()
    assert task["state"] == "SUCCESS"
    assert len(task["text"].split()) == 150
    assert shown.split() == task["text"].split()
    assert page.conversation()["messages"][-1]["text"] == task["text"]


@contextlib.contextmanager
def no_more_words(up: Up) -> Iterator[None]:
    """The answer under way stays where it is, however long the browser takes."""
    engine = psutil.Process(engine_of(up.child("worker").pid))
    engine.suspend()
    try:
        yield
    finally:
        engine.resume()


def test_a_reload_in_mid_answer(page: ChatPage, browser: Browser, up: Up) -> None:
    page.write(LONG)
    so_far = page.streams()
    with no_more_words(up):
        browser.reload()
        assert page.streams().startswith(so_far)
    whole(page)


def test_a_reload_before_the_server_has_accepted(page: ChatPage, browser: Browser, up: Up) -> None:
    api = up.child("api")
    api.send_signal(signal.SIGSTOP)
    try:
        page.write(LONG)
        page.status("Sending")
    finally:
        api.send_signal(signal.SIGCONT)
    browser.reload()
    whole(page)
    assert [message["role"] for message in page.conversation()["messages"]] == ["user", "assistant"]


def test_a_killed_replica(page: ChatPage, browser: Browser, up: Up) -> None:
    page.write(LONG)
    so_far = page.streams()
    page.record_statuses()
    up.child("api").kill()
    browser.until(lambda: "The connection is lost" in page.statuses(), "the loss is told")
    assert browser.text(f"{ANSWER} .prose").strip().startswith(so_far)
    whole(page)


def test_a_killed_worker(page: ChatPage, browser: Browser, up: Up) -> None:
    page.write(LONG)
    page.streams()
    page.record_statuses()
    up.child("worker").kill()
    whole(page)
    assert "another one goes on where it was" in page.statuses()


def test_offline_and_back(page: ChatPage, browser: Browser, up: Up) -> None:
    def online(yes: bool) -> None:
        conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        browser.cdp("Network.emulateNetworkConditions", offline=not yes, **conditions)

    browser.cdp("Network.enable")
    page.write(LONG)
    page.streams()
    with no_more_words(up):
        online(False)
        browser.says("You are offline", "#banner")
        online(True)
    whole(page)
    assert browser.text("#banner") == ""


def test_two_tabs_see_the_same_answer(page: ChatPage, browser: Browser, up: Up) -> None:
    page.write(LONG)
    page.streams()
    with no_more_words(up):
        fragment = browser.run("return location.hash")
        first = browser.new_tab()
        page.open(fragment)
        page.streams()
    whole(page)
    second = browser.switch(first)
    whole(page)
    page.write("!say and now")  # also what is asked in one of them later
    browser.switch(second)
    browser.says("and now", f"{ANSWER} .prose")
    browser.close_tab(first)


def test_an_answer_ends_while_another_conversation_is_shown(page: ChatPage, browser: Browser, up: Up) -> None:
    page.write(LONG)
    page.streams()
    with no_more_words(up):
        browser.click("#new")
        browser.says("answering", "#conversations")
    browser.until(lambda: "answering" not in browser.text("#conversations"), "it ends")
    browser.click(".conversation")
    whole(page)


def test_who_waits_sees_the_place_and_what_is_being_done(
    page: ChatPage, browser: Browser, up: Up, picture: Callable[[str], None]
) -> None:
    async def announce(detail: str) -> None:
        async with Redis.from_url(up.addresses()["HEADRACE_REDIS_URL"]) as redis:
            await WorkerRegistry(redis, Keys(SharedSettings().key_prefix), lease_seconds=2).announce_starting(
                "new", "scripted", detail
            )

    engines = [process for process in up.children() if process.ppid() == up.child("worker").pid]
    frozen = [up.child("worker"), *engines]
    for process in frozen:
        process.send_signal(signal.SIGSTOP)
    try:
        browser.says("no worker is ready", "#model-state")
        page.write("What is a headrace?")
        page.status("Waiting, position 1: no worker is ready")
        asyncio.run(announce("loading weights 45 %"))
        page.status("Waiting, position 1: loading weights 45 %")
        browser.says("loading weights 45 %", "#model-state")
        assert browser.find("#model-state progress").get_attribute("value") == "45"
        picture("waiting")
    finally:
        for process in frozen:
            process.send_signal(signal.SIGCONT)
    page.answer()
    browser.says("ready", "#model-state")


def test_an_answer_that_the_server_has_forgotten_is_told(page: ChatPage, browser: Browser, up: Up) -> None:
    page.write(LONG)
    page.streams()
    script = """
        const key = "headrace.conversation." + location.hash.slice(1);
        const forget = (text) => text.replace(/"taskId":"[^"]+"/, '"taskId":"gone"');
        addEventListener("pagehide", () => (localStorage[key] = forget(localStorage[key])));
    """
    with no_more_words(up):
        browser.run(script)
        browser.reload()
        page.ended("failed")
    browser.says("The server does not have this answer", ".problem")
