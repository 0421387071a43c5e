"""The chat page as its user knows it."""

import json
from typing import Any

import httpx
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from testbed.browser import Browser

ANSWER = ".message.assistant:last-child"


class ChatPage:
    """The page in the tab that the browser drives."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url

    def open(self, fragment: str = "") -> None:
        """Returns when a model can be chosen."""
        self.browser.open(f"{self.url}/{fragment}")
        self.is_there()

    def is_there(self) -> None:
        self.browser.until(lambda: self.browser.run("return document.querySelector('#model').value") != "", "a model")

    def choose_model(self, name: str) -> None:
        Select(self.browser.find("#model")).select_by_value(name)

    def write(self, text: str) -> None:
        """Puts text into the prompt as pasting does, and sends it by the keyboard."""
        prompt = self.browser.find("#prompt")
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"
        self.browser.run(script, prompt, text)
        prompt.send_keys(Keys.ENTER)

    def ask(self, text: str) -> str:
        """Sends and waits for the whole answer, rendered."""
        self.write(text)
        return self.answer()

    def answer(self) -> str:
        """The last one, when it is whole and rendered."""
        self.ended()
        shown = f"{ANSWER} .prose:not(.plain):not(:has(.tail))"
        self.browser.until(lambda: bool(self.browser.text(shown)), "the rendered answer")
        return self.browser.text(shown)

    def ended(self, state: str = "done") -> None:
        self.browser.find(f"{ANSWER}[data-state={state}]")

    def streams(self, characters: int = 10) -> str:
        """Waits until so much of the answer is shown and there is more to come; returns it."""
        body = f"{ANSWER}[aria-busy=true] .prose"
        self.browser.until(lambda: len(self.browser.text(body)) >= characters, f"{characters} characters of the answer")
        return self.browser.text(body).strip()

    def status(self, text: str) -> None:
        """Waits for this line about the answer under way, one that stays for a while."""
        self.browser.says(text, f"{ANSWER} .status")

    def record_statuses(self) -> None:
        """From now on `statuses` knows each line about an answer, however short its time."""
        script = """
            window.statuses = [];
            const words = () => [...document.querySelectorAll(".status .words")].map((one) => one.innerText);
            const look = () => statuses.push(...words());
            const seen = { subtree: true, childList: true, characterData: true };
            new MutationObserver(look).observe(document.querySelector("#transcript"), seen);
        """
        self.browser.run(script)

    def statuses(self) -> str:
        return "\n".join(self.browser.run("return window.statuses"))

    def conversation(self) -> dict[str, Any]:
        """The one that is shown, as it is stored."""
        stored = self.browser.run("return localStorage['headrace.conversation.' + location.hash.slice(1)]")
        return dict(json.loads(stored))

    def task(self) -> dict[str, Any]:
        """What the server says of the last answer's task."""
        task_id = self.conversation()["messages"][-1]["taskId"]
        call = {"jsonrpc": "2.0", "id": 1, "method": "get_message", "params": {"taskId": task_id}}
        return dict(httpx.post(f"{self.url}/rpc", json=call).json()["result"])

    def sent(self) -> list[dict[str, Any]]:
        """Parameters of the tasks that it has started since the last look."""
        calls = [json.loads(request.body) for request in self.browser.requests() if request.url.endswith("/rpc")]
        return [call["params"] for call in calls if call["method"] == "create_message"]

    def set_options(self, **values: str) -> None:
        """Opens the dialog, fills in these fields, saves."""
        self.browser.click("#options")
        for name, value in values.items():
            field = self.browser.find(f"#options-dialog [name={name}]")
            self.browser.run("arguments[0].value = arguments[1]", field, value)
        self.browser.click("#options-dialog [type=submit]")
