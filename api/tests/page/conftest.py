"""The chat page in a real browser, on a whole local stack: Valkey, API, a worker with the scripted engine."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed.api_process import StartProcess
from testbed.browser import Browser
from testbed.chat_page import ChatPage
from testbed.up_process import Up

NOTHING_WRONG = re.compile(
    r"ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_INTERNET_DISCONNECTED|ERR_INCOMPLETE_CHUNKED|ERR_EMPTY_RESPONSE"
    r"|status of 4\d\d"
)
"""What a browser writes into its console when a server does not answer, or says no; tests make servers do both."""


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(
        *("--env", "HEADRACE_LEASE_SECONDS=2"),
        data_dir=tmp_path_factory.mktemp("up") / "data",
        source="scripted:?token_ms=3&tokens=60",
    )
    try:
        up.says("Ctrl-C stops it")
        yield up
    finally:
        up.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("browser") / "profile")
    yield browser
    browser.close()


@pytest.fixture
def page(up: Up, browser: Browser) -> Iterator[ChatPage]:
    with visit(browser, up.addresses()["HEADRACE_URL"]) as page:
        page.open()
        yield page


@pytest.fixture
def page_of_two_models(up: Up, browser: Browser, start: StartProcess) -> Iterator[ChatPage]:
    """At an API that has a second model, `other`, beside the one of `up`: nobody runs a worker of it."""
    api = start(redis_url=up.addresses()["HEADRACE_REDIS_URL"], models="scripted,other", redis_timeout="10")
    with visit(browser, api.url("Requests")) as page:
        page.open()
        yield page


@pytest.fixture
def locked_page(browser: Browser, start: StartProcess) -> Iterator[ChatPage]:
    """At an API that asks for a key, without a worker."""
    api = start(api_keys='{"open sesame": "ali"}', redis_timeout="10")
    with visit(browser, api.url("Requests")) as page:
        browser.open(page.url)
        yield page


@contextlib.contextmanager
def visit(browser: Browser, url: str) -> Iterator[ChatPage]:
    """The page as somebody sees it who comes for the first time. Whatever a test does: the page breaks no policy of its
    own, throws nothing, and asks nobody but its server."""
    browser.requests(), browser.console()  # of whatever was open before
    yield ChatPage(browser, url)
    requests = browser.requests()
    told = [line for line in browser.console() if not NOTHING_WRONG.search(line)]
    browser.forget(url)
    browser.window()
    assert {request.origin for request in requests} <= {url, "data://"}
    assert told == []


@pytest.fixture
def picture(browser: Browser) -> Callable[[str], None]:
    """`picture("name")` keeps what the window shows for the documents, where PICTURES names a folder."""
    folder = os.environ.get("PICTURES")

    def keep(name: str) -> None:
        if folder:
            browser.picture(Path(folder) / "chat" / f"{name}.png")

    return keep
