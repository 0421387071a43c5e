"""The chat page and those who wish it ill: what a model, a user, a tool or a server writes stays text."""

import json

import pytest

from testbed.browser import Browser
from testbed.chat_page import ANSWER, ChatPage

pytestmark = pytest.mark.needs("chromium", "chromedriver")

ATTACKS = (
    "<script>pwned=1</script>",
    "<img src=x onerror=pwned=1>",
    "<svg onload=pwned=1><animate onbegin=pwned=1 attributeName=x></svg>",
    "<iframe srcdoc='<script>parent.pwned=1</script>'></iframe>",
    "<details open ontoggle=pwned=1>x</details>",
    "<style>@import 'http://evil.invalid/x.css';</style>",
    "<form action=http://evil.invalid><button autofocus onfocus=pwned=1>x</button></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror=pwned=1>",
    "<a href='javascript:pwned=1'>x</a>",
    "<base href='http://evil.invalid/'><meta http-equiv=refresh content='0;url=http://evil.invalid'>",
    "[x](javascript:pwned=1) [x](JaVaScRiPt:pwned=1) [x](java&#10;script:pwned=1) [x](&#106;avascript:pwned=1)",
    "[x](data:text/html,<script>pwned=1</script>) [x](vbscript:pwned=1) <javascript:pwned=1>",
    '[x](http://ok.invalid "\\" onmouseover=\\"pwned=1") [x](http://ok.invalid/"onmouseover="pwned=1)',
    "![x](http://evil.invalid/track.png) ![x](x' onerror='pwned=1) ![](javascript:pwned=1)",
    "```<script>pwned=1</script>\n</code></pre><img src=x onerror=pwned=1>\n```",
    '``` x" onmouseover="pwned=1\ncode\n```',
    "| <img src=x onerror=pwned=1> | `</td><script>pwned=1</script>` |\n|---|---|\n| <b onclick=pwned=1>x | x |",
    "\u202e</div></article></section><script>pwned=1</script>\x00<scr\x00ipt>pwned=1</scr\x00ipt>",
    "{{constructor.constructor('pwned=1')()}} ${pwned=1} <%= pwned=1 %>",
)
ALLOWED = {
    "A",
    "BLOCKQUOTE",
    "BR",
    "BUTTON",
    "CODE",
    "DEL",
    "EM",
    "FIGCAPTION",
    "FIGURE",
    "H1",
    "H2",
    "H3",
    "HR",
    "INPUT",
}
ALLOWED |= {"LI", "OL", "P", "PRE", "SPAN", "STRONG", "TABLE", "TBODY", "TD", "TH", "THEAD", "TR", "UL"}
FOUND = """
    const found = [...document.querySelectorAll('#transcript .prose *')];
    return {
      pwned: window.pwned ?? null,
      tags: found.map((one) => one.tagName),
      handlers: found.flatMap((one) => one.getAttributeNames()).filter((name) => /^on|^style$/.test(name)),
      schemes: found.filter((one) => one.href).map((one) => one.protocol),
      scripts: document.scripts.length,
    }
"""


def harmless(browser: Browser) -> None:
    found = browser.run(FOUND)
    assert set(found["tags"]) <= ALLOWED
    assert set(found["schemes"]) <= {"http:", "https:", "mailto:"}
    assert (found["pwned"], found["handlers"], found["scripts"]) == (None, [], 1)


def test_what_a_model_writes(page: ChatPage, browser: Browser) -> None:
    text = "\n\n".join(ATTACKS)
    page.ask(f"!say {text}")
    assert page.conversation()["messages"][-1]["text"] == text
    assert "<script>pwned=1</script>" in browser.text(f"{ANSWER} .prose")  # told, not done
    harmless(browser)
    assert all(link.get_attribute("rel") == "noopener noreferrer nofollow" for link in browser.all(".prose a"))
    browser.reload()
    page.is_there()
    page.answer()
    harmless(browser)


def test_what_a_user_and_a_tool_write(page: ChatPage, browser: Browser) -> None:
    evil = "\n".join(ATTACKS)
    tools = json.dumps([{"type": "function", "function": {"name": "look"}}])
    page.set_options(tools=tools, title=ATTACKS[1])
    call = json.dumps({"name": "look", "arguments": {"at": ATTACKS[1]}})
    page.write(f"{evil}\n!say <tool_call>{call}</tool_call>")
    browser.run("arguments[0].value = arguments[1]", browser.find(".call textarea"), evil)
    browser.run("document.querySelector('.call ~ .actions button').click()")
    browser.says(ATTACKS[1], ".message.tool")
    page.ended()
    assert ATTACKS[1] in browser.text(".message.user")
    assert ATTACKS[1] in browser.text(".call pre")
    assert ATTACKS[1] in browser.text("#conversations")
    harmless(browser)


def test_what_a_server_calls_its_models(page: ChatPage, browser: Browser) -> None:
    """No server that is ours has such names; a proxy may."""
    model = {"name": ATTACKS[1], "default": True, "ready": False, "detail": ATTACKS[0], "waiting": 0}
    script = """
        const real = fetch;
        window.fetch = (path, options) => options?.body?.includes?.("model_list")
          ? Promise.resolve(Response.json({ result: { models: [MODEL] } })) : real(path, options);
    """
    added = browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=script.replace("MODEL", json.dumps(model)))
    try:
        page.open()
        assert ATTACKS[1] in browser.text("#model")
        assert ATTACKS[0] in browser.text("#model-state")
        page.write("hi")
        page.ended("failed")
        assert "there is no model" in browser.text(f"{ANSWER} .problem")
        harmless(browser)
    finally:
        browser.cdp("Page.removeScriptToEvaluateOnNewDocument", identifier=added["identifier"])


def test_the_policy_holds_where_the_page_would_err(page: ChatPage, browser: Browser) -> None:
    """HTML that comes by any other way than the page's own policy is refused by the browser."""
    script = "try { document.body.insertAdjacentHTML('beforeend', '<img>') } catch (error) { return error.name }"
    assert browser.run(script) == "TypeError"
    assert "TrustedHTML" in "".join(browser.console())
