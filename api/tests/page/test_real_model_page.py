"""The chat page and the real model."""

import json
from collections.abc import Callable, Iterator

import pytest

from testbed.browser import Browser
from testbed.chat_page import ANSWER, ChatPage
from testbed.up_process import Up

pytestmark = pytest.mark.needs("chromium", "chromedriver")

START_SECONDS = 180.0
"""Bound on loading the model; its first start on a machine converts it."""


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(data_dir=tmp_path_factory.mktemp("up") / "data", source=None)
    try:
        up.says("Ctrl-C stops it", within=START_SECONDS)
        yield up
    finally:
        up.close()


WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
}


def test_it_answers_and_goes_on_after_a_reload(
    page: ChatPage, browser: Browser, picture: Callable[[str], None]
) -> None:
    page.set_options(temperature="0", maxTokens="80")
    page.write("Write a Python function that says hello.")
    page.streams()
    browser.reload()
    assert page.answer()
    task = page.task()
    assert (task["state"], task["text"]) == ("SUCCESS", page.conversation()["messages"][-1]["text"])
    assert "tokens" in browser.text(f"{ANSWER} .facts")
    picture("answer")
    browser.window(prefers_color_scheme="dark")
    picture("answer-dark")
    browser.window(360, 720)
    picture("phone")


def test_its_tool_is_called_by_hand(page: ChatPage, browser: Browser, picture: Callable[[str], None]) -> None:
    tools = json.dumps([{"type": "function", "function": WEATHER}])
    page.set_options(temperature="0", maxTokens="60", tools=tools, toolChoice="required")
    page.write("What is the weather in Paris?")
    browser.find(".call textarea").send_keys("It is sunny in Paris, 24 degrees.")
    picture("tool")
    browser.click(".call ~ .actions button")
    assert page.answer()
