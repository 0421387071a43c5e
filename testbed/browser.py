"""A real browser: Chromium without a screen, with a new profile, and a record of all that it asked for."""

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from testbed.programs import program
from testbed.waiting import wait_until

BOUND_SECONDS = 120.0
"""On every wait: far above what the machine needs."""
PAUSE_SECONDS = 0.05
"""Between two looks: each is a round trip through the driver, and costs what the page could use."""
OPTIONS = (
    "--headless",
    "--no-sandbox",  # root needs it, and what is shown here is ours
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
)


@dataclass(frozen=True, slots=True)
class Request:
    """One that a page has made."""

    url: str
    body: str

    @property
    def origin(self) -> str:
        scheme, host, *_ = urlsplit(self.url)
        return f"{scheme}://{host}"


class Browser:
    """One browser; `tab` is the one that is driven."""

    def __init__(self, profile: Path) -> None:
        """`profile`: a folder that is not there yet."""
        options = webdriver.ChromeOptions()
        options.binary_location = program("chromium")
        for option in (*OPTIONS, f"--user-data-dir={profile}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        self._driver = webdriver.Chrome(options=options, service=Service(program("chromedriver")))
        self._driver.set_script_timeout(BOUND_SECONDS)
        self.window()
        self.open("about:blank")
        self.requests(), self.console()  # of the page that it starts with

    def close(self) -> None:
        self._driver.quit()

    def window(self, width: int = 1280, height: int = 800, **features: str) -> None:
        """A screen of this size; features of CSS by name, `prefers_color_scheme="dark"`; nothing moves."""
        wanted = {"prefers_color_scheme": "light", "prefers_reduced_motion": "reduce", **features}
        media = [{"name": name.replace("_", "-"), "value": value} for name, value in wanted.items()]
        self.cdp("Emulation.setEmulatedMedia", features=media)
        self.cdp(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500
        )

    def cdp(self, command: str, **parameters: Any) -> dict[str, Any]:
        """A command of the DevTools protocol."""
        return dict(self._driver.execute_cdp_cmd(command, parameters))

    def open(self, url: str) -> None:
        self._driver.get(url)

    def reload(self) -> None:
        self._driver.refresh()

    def forget(self, origin: str) -> None:
        """What the origin has stored, and the page that is open."""
        self._driver.get("about:blank")
        self.cdp("Storage.clearDataForOrigin", origin=origin, storageTypes="all")

    def new_tab(self) -> str:
        """Opens a tab and drives it from now on; returns the one that was driven before."""
        before = str(self._driver.current_window_handle)
        self._driver.switch_to.new_window("tab")
        return before

    def switch(self, tab: str) -> str:
        """Drives another tab; returns the one that was driven before."""
        before = str(self._driver.current_window_handle)
        self._driver.switch_to.window(tab)
        return before

    def close_tab(self, then: str) -> None:
        self._driver.close()
        self._driver.switch_to.window(then)

    def run(self, script: str, *arguments: Any) -> Any:
        """What a function's body in JavaScript returns."""
        return self._driver.execute_script(script, *arguments)

    def find(self, selector: str) -> WebElement:
        """The first one that is shown, waited for."""
        return self.all(selector)[0]

    def all(self, selector: str) -> list[WebElement]:
        """All that are shown, once there is one."""
        found: list[WebElement] = []

        def shown() -> bool:
            with suppress(StaleElementReferenceException):  # the page has replaced it meanwhile
                found[:] = [one for one in self._driver.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]
                return bool(found)
            return False

        self.until(shown, f"{selector} is shown")
        return found

    def text(self, selector: str = "body") -> str:
        """Of all that fit, as they are; nothing where there is none."""
        script = "return Array.from(document.querySelectorAll(arguments[0]), (one) => one.innerText).join('\\n')"
        return str(self.run(script, selector))

    def says(self, text: str, selector: str = "body", *, within: float = BOUND_SECONDS) -> None:
        self.until(lambda: text in self.text(selector), f"{text!r} in {selector}", within)

    def until(self, condition: Callable[[], bool], what: str, within: float = BOUND_SECONDS) -> None:
        wait_until(condition, within, lambda: f"{what}\n{self.text()}\n{self.console()}", PAUSE_SECONDS)

    def click(self, selector: str) -> None:
        def clicked() -> bool:
            with suppress(StaleElementReferenceException):
                self.find(selector).click()
                return True
            return False

        self.until(clicked, f"a click on {selector}")

    def type(self, *keys: str) -> None:
        """Into whatever has the focus."""
        ActionChains(self._driver).send_keys(*keys).perform()

    def picture(self, file: Path) -> None:
        """What the window shows, as a PNG."""
        file.write_bytes(base64.b64decode(self.cdp("Page.captureScreenshot", format="png")["data"]))

    def console(self) -> list[str]:
        """What was written into the console since the last look; violations of the page's policy are told there too."""
        return [f"{entry['level']} {entry['message']}" for entry in self._log("browser")]

    def requests(self) -> list[Request]:
        """What was asked for since the last look."""
        asked = []
        for entry in self._log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                request = message["params"]["request"]
                asked.append(Request(request["url"], request.get("postData", "")))
        return asked

    def _log(self, kind: str) -> list[dict[str, Any]]:
        return list(self._driver.get_log(kind))  # type: ignore[no-untyped-call]
