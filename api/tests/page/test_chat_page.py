"""The chat page: a conversation and its controls."""

import json

import pytest
from selenium.webdriver.common.keys import Keys

from testbed.browser import Browser
from testbed.chat_page import ANSWER, ChatPage

pytestmark = pytest.mark.needs("chromium", "chromedriver")

MARKDOWN = """A **hash map** finds a value by its key:

1. The key is *hashed* to a number.
2. The number names a bucket; looking into it takes `O(1)`.

```python
def put(table, key, value):
    table[hash(key) % len(table)].append((key, value))
```

| step | cost |
|---|---:|
| hash | 1 |
| probe | 1.5 |
"""
WEATHER = json.dumps([{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}])
CALL = 'Let me look. <tool_call>{"name": "get_weather", "arguments": {"city": "Oslo"}}</tool_call>'


def test_an_answer_streams_as_markdown_and_its_code_is_copied(page: ChatPage, browser: Browser) -> None:
    browser.says("What would you like to know?")
    page.write(f"!slow 10\n!say {MARKDOWN}")
    browser.find(f"{ANSWER}[aria-busy=true] ol li em")  # rendered while it streams
    answer = page.answer()
    assert "A hash map finds a value by its key:" in answer
    assert [cell.text for cell in browser.all(f"{ANSWER} td")] == ["hash", "1", "probe", "1.5"]
    assert "tokens" in browser.text(f"{ANSWER} .facts")
    browser.cdp("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    browser.click(f"{ANSWER} figcaption button")
    browser.says("Copied", f"{ANSWER} figcaption")
    copied = browser.run("return navigator.clipboard.readText()")
    assert copied == MARKDOWN.partition("```python\n")[2].partition("```")[0]


def test_stop_ends_the_task_and_keeps_what_there_is(page: ChatPage, browser: Browser) -> None:
    page.write("!slow 20\n!tokens 4000")
    so_far = page.streams()
    browser.click("#stop")
    page.ended("stopped")
    assert page.conversation()["messages"][-1]["text"].strip().startswith(so_far)
    assert page.task()["state"] == "REVOKED"
    browser.says("Stopped.", ANSWER)
    page.write("!slow 20\n!tokens 4000")
    page.streams()
    browser.type(Keys.ESCAPE)
    page.ended("stopped")


def test_a_message_is_edited_and_sent_again(page: ChatPage, browser: Browser) -> None:
    page.ask("!say one")
    page.ask("!say two")
    browser.type(Keys.ARROW_UP)
    assert browser.run("return document.activeElement.value") == "!say two"
    browser.type(Keys.ESCAPE)
    browser.run("document.querySelector('.user button').click()")
    area = browser.find(".edit textarea")
    area.clear()
    area.send_keys("!say three", Keys.ENTER)
    assert page.answer() == "three"
    assert [message.get("text") for message in page.conversation()["messages"]] == ["!say three", "three"]


def test_an_answer_is_generated_again(page: ChatPage, browser: Browser) -> None:
    page.ask("!say one")
    first = page.conversation()["messages"][-1]["taskId"]
    browser.requests()
    browser.click(f"{ANSWER} .tools button:nth-child(2)")
    browser.until(lambda: page.conversation()["messages"][-1].get("taskId") not in (None, first), "another task")
    assert page.answer() == "one"
    (sent,) = page.sent()
    assert [message["content"] for message in sent["messages"]] == ["!say one"]


def test_system_prompt_and_sampling_reach_the_model(page: ChatPage, browser: Browser) -> None:
    page.set_options(system="Be brief.", temperature="0.7", topP="0.9", topK="40", maxTokens="300", seed="5")
    assert page.ask("!sampling") == "0.7 0.9 40"
    (sent,) = page.sent()
    assert sent["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "!sampling"}]
    assert (sent["maxTokens"], sent["seed"]) == (300, 5)
    browser.reload()
    page.is_there()
    browser.window(1280, 500)
    browser.click("#options")
    assert browser.find("[name=system]").get_attribute("value") == "Be brief."
    browser.run("document.querySelector('#options-dialog').scrollTop = 100")
    browser.type(Keys.ESCAPE)
    browser.click("#options")
    assert browser.run("return document.querySelector('#options-dialog').scrollTop") == 0
    browser.type(Keys.ESCAPE)
    page.set_options(temperature="0", system="")
    assert page.ask("!sampling").startswith("0.0 0.9")


def test_each_conversation_has_its_model(page_of_two_models: ChatPage, browser: Browser) -> None:
    page = page_of_two_models
    assert [option.text for option in browser.all("#model option")] == ["scripted", "other (no worker)"]
    browser.says("ready", "#model-state")
    page.choose_model("other")
    browser.says("no worker is ready", "#model-state")
    page.write("hello")
    page.status("Waiting, position 1: no worker is ready")
    browser.says("1 waiting", "#model-state")
    browser.click("#stop")
    page.ended("stopped")
    browser.click("#new")
    page.choose_model("scripted")
    assert page.ask("!say one") == "one"
    assert [sent["model"] for sent in page.sent()] == ["other", "scripted"]
    browser.all(".conversation")[1].click()
    browser.says("no worker is ready", "#model-state")
    browser.reload()
    page.is_there()
    assert browser.find("#model").get_attribute("value") == "other"
    page.choose_model("scripted")
    assert page.ask("!say two") == "two"
    assert [message.get("model") for message in page.conversation()["messages"]] == [None, "other", None, "scripted"]


def test_a_tool_is_called_and_its_result_typed_by_hand(page: ChatPage, browser: Browser) -> None:
    browser.click("#options")
    field = browser.find("[name=tools]")
    field.send_keys("not JSON")
    browser.click("#options-dialog [type=submit]")
    browser.says("not JSON", "#options-dialog .problem")
    browser.type(Keys.ESCAPE)
    page.set_options(tools=WEATHER)
    page.ask(f"!say {CALL}")
    browser.says('"city": "Oslo"', ".call")
    assert not browser.find("#prompt").is_enabled()
    result = browser.find(".call textarea")
    browser.until(lambda: browser.run("return document.activeElement.placeholder") == "What the tool answers", "focus")
    result.send_keys("Rain, 8 degrees.")
    page.sent()
    browser.click(".call ~ .actions button")
    browser.says("Rain, 8 degrees.", ".message.tool")
    page.answer()
    (sent,) = page.sent()
    asked, called, answered = sent["messages"]
    assert (asked["role"], called["content"]) == ("user", "Let me look.")
    (call,) = called["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("get_weather", {"city": "Oslo"})
    assert answered == {"role": "tool", "tool_call_id": call["id"], "content": "Rain, 8 degrees."}
    # The scripted model repeats itself; what the guard does about that is told.
    for _ in range(2):
        browser.find(".call textarea").send_keys("Rain, 8 degrees.")
        browser.run("document.querySelector('.call ~ .actions button').click()")
        count = len(page.conversation()["messages"])
        page.answer()
        if browser.text(f"{ANSWER} .notice"):
            break
        assert len(page.conversation()["messages"]) == count
    assert "repeated tool calls" in browser.text(f"{ANSWER} .notice")


def test_several_conversations_are_kept_named_exported_and_deleted(
    page: ChatPage, browser: Browser, tmp_path: pytest.TempPathFactory
) -> None:
    browser.cdp("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.ask("!say first")
    browser.click("#new")
    page.set_options(title="The second", system="Be brief.")
    page.ask("!say second")
    assert [item.text for item in browser.all(".conversation")] == ["The second", "!say first"]
    for button, ending in (("#export-markdown", "md"), ("#export-json", "json")):
        browser.click("#more summary")
        browser.click(button)
        file = tmp_path / f"The-second.{ending}"  # type: ignore[operator]
        browser.until(file.exists, f"{file} is written")
        assert "Be brief." in file.read_text()
        assert "second" in file.read_text()
    browser.all(".conversation")[1].click()
    assert page.answer() == "first"
    browser.click("#more summary")
    browser.click("#delete")
    browser.click("#delete-dialog [type=submit]")
    browser.until(lambda: [item.text for item in browser.all(".conversation")] == ["The second"], "one is left")
    browser.says("What would you like to know?")


def test_an_error_says_what_and_is_tried_again(page: ChatPage, browser: Browser) -> None:
    page.write("!fail The cable is cut.")
    page.ended("failed")
    browser.says("The cable is cut.", ".problem")
    first = page.conversation()["messages"][-1]["id"]
    browser.click(f"{ANSWER} .problem button")
    browser.until(lambda: page.conversation()["messages"][-1]["id"] != first, "another try")
    page.ended("failed")
    page.set_options(maxTokens="1000000")
    page.write("too much")
    browser.says("context", f"{ANSWER} .problem")
    page.set_options(maxTokens="")
    assert page.ask("!say after all") == "after all"


def test_a_full_storage_is_told_and_nothing_is_lost(page: ChatPage, browser: Browser) -> None:
    page.ask("!say one")
    fill = """
        for (let size = 2 ** 22; size >= 1; size /= 2) {
          for (let more = true; more; ) {
            try { localStorage['x' + Math.random()] = 'x'.repeat(size) } catch { more = false }
          }
        }
    """
    browser.run(fill)
    page.write("no room for this")
    browser.says("storage is full", "#banner")
    assert browser.find("#prompt").get_attribute("value") == "no room for this"
