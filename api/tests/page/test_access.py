"""The chat page for everybody: on a phone, by keyboard, by ear, in the dark, from right to left; and behind a key."""

import pytest
from selenium.webdriver.common.keys import Keys

from testbed.browser import Browser
from testbed.chat_page import ANSWER, ChatPage

pytestmark = pytest.mark.needs("chromium", "chromedriver")

NAMED = {
    "button",
    "combobox",
    "textbox",
    "spinbutton",
    "link",
    "dialog",
    "article",
    "progressbar",
    "DisclosureTriangle",
}


def focus(browser: Browser) -> str:
    """What has it: the id, or the text."""
    return str(browser.run("const one = document.activeElement; return one.id || one.innerText || one.tagName"))


def unnamed(browser: Browser) -> list[str]:
    """Roles of what a screen reader would meet without a name."""
    nodes = browser.cdp("Accessibility.getFullAXTree")["nodes"]
    return [
        node["role"]["value"]
        for node in nodes
        if not node["ignored"] and node["role"]["value"] in NAMED and not node.get("name", {}).get("value", "").strip()
    ]


def test_a_phone_shows_it_without_scrolling_sideways(page: ChatPage, browser: Browser) -> None:
    browser.window(360, 720)
    table = "|" + "column|" * 12 + "\n|" + "-|" * 12
    page.ask(f"!say A sentence.\n\n```\n{'x' * 100}\n```\n\n{table}\n\n{'y' * 80}")
    assert browser.run("return document.scrollingElement.scrollWidth") == 360
    assert browser.run("const one = document.querySelector('#scroller'); return one.scrollWidth - one.clientWidth") == 0
    outside = """
        const controls = [...document.querySelectorAll('main button, main select')];
        return controls.filter((one) => one.getBoundingClientRect().right > 360).length
    """
    assert browser.run(outside) == 0
    browser.click("#menu")
    browser.find(".conversation")
    browser.type(Keys.ESCAPE)
    browser.until(
        lambda: (
            not browser.run("return document.querySelector('#sidebar').checkVisibility({visibilityProperty: true})")
        ),
        "closed",
    )
    assert focus(browser) == "menu"


def test_everything_is_reached_by_the_keyboard_alone(page: ChatPage, browser: Browser) -> None:
    assert focus(browser) == "prompt"
    browser.type("!say by hand", Keys.ENTER)
    assert page.answer() == "by hand"
    browser.run("document.activeElement.blur()")
    reached = []
    for _ in range(20):
        browser.type(Keys.TAB)
        reached.append(focus(browser))
    for control in ("Skip to the prompt", "new", "model", "options", "prompt", "send", "Edit", "Copy", "Regenerate"):
        assert control in reached, reached
    browser.run("document.querySelector('#options').focus()")
    browser.type(Keys.ENTER)
    browser.find("#options-dialog")
    browser.type(Keys.ESCAPE)
    browser.until(lambda: focus(browser) == "options", "the focus is back")


def test_everything_has_a_name_and_news_are_told(page: ChatPage, browser: Browser) -> None:
    page.ask("!say hello\n\n```\ncode\n```")
    browser.says("The answer is complete", "#announcer")
    assert unnamed(browser) == []
    browser.click("#options")
    assert unnamed(browser) == []
    browser.type(Keys.ESCAPE)


def test_the_system_s_wishes_are_followed(page: ChatPage, browser: Browser) -> None:
    def look(script: str) -> str:
        return str(browser.run(f"return {script}"))

    light = look("getComputedStyle(document.body).backgroundColor")
    browser.window(prefers_color_scheme="dark")
    assert look("getComputedStyle(document.body).backgroundColor") != light
    page.write("!slow 20\n!tokens 4000")
    page.streams()
    assert look("document.getAnimations().length") == "0"
    browser.window(prefers_reduced_motion="no-preference")
    browser.until(lambda: look("document.getAnimations().length") != "0", "what pulses")
    browser.click("#stop")
    page.ended("stopped")


def test_text_from_right_to_left(page: ChatPage, browser: Browser) -> None:
    arabic = "الماء يجد طريقه دائما."
    page.ask(f"{arabic}\n!say {arabic}\n\n1. واحد\n2. اثنان\n\n```\nprint(1)\n```")
    for selector, direction in ((".user .body", "rtl"), (f"{ANSWER} .prose", "rtl"), (f"{ANSWER} pre", "ltr")):
        element = browser.find(selector)
        assert browser.run("return getComputedStyle(arguments[0]).direction", element) == direction


def test_a_key_is_asked_for_and_stays_in_the_tab(locked_page: ChatPage, browser: Browser) -> None:
    page = locked_page
    for key in ("wrong", "open sesame"):
        browser.find("#key-dialog [name=key]").send_keys(key, Keys.ENTER)
        if key == "wrong":
            browser.says("does not know this key", "#key-dialog")
    page.is_there()
    page.write("hello")
    page.status("Waiting, position 1: no worker is ready")
    assert browser.run("return JSON.stringify(localStorage).includes('sesame') || document.cookie") in (False, "")
    assert all("sesame" not in request.url for request in browser.requests())
    browser.reload()
    page.status("Waiting, position 1")
    first = browser.new_tab()
    browser.open(page.url)
    browser.find("#key-dialog")
    browser.close_tab(first)
    browser.click("#stop")
    page.ended("stopped")
