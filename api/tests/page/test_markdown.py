"""Markdown as safe HTML, and how long it may take."""

import time

import pytest

from api.errors import BodyTooLarge, InvalidParams
from api.page.markdown import LONGEST_BYTES, safe_html


def test_github_s_dialect_is_rendered() -> None:
    html = safe_html("# A\n\n- [x] *b*\n\n~~c~~ `d`\n\n```python\ne\n```\n\n|f|\n|-:|\n|g|\n\nhttps://h.example")
    for part in (
        "<h1>A</h1>",
        "<em>b</em>",
        "<del>c</del>",
        "<code>d</code>",
        '<code class="language-python">',
        '<td align="right">g</td>',
        '<a href="https://h.example" target="_blank" rel="noopener noreferrer nofollow">',
        'type="checkbox"',
    ):
        assert part in html


@pytest.mark.parametrize(
    "text",
    [
        "<script>x</script>",
        "<img src=x onerror=x>",
        "a <b onclick=x>b</b>",
        "<!-- x -->",
        "&lt;script&gt;",
        "<div>\n*a*\n</div>",
    ],
)
def test_html_is_told_as_text(text: str) -> None:
    html = safe_html(text)
    assert "&lt;" in html
    for tag in ("<script", "<img", "<b", "<!--", "<div"):
        assert tag not in html


@pytest.mark.parametrize(
    "address", ["javascript:x", "JAVASCRIPT:x", "data:text/html,x", "vbscript:x", "file:///etc/passwd"]
)
def test_links_lead_to_the_web_or_to_mail(address: str) -> None:
    assert address not in safe_html(f"[a]({address})")
    assert 'href="mailto:a@example.com"' in safe_html("[a](mailto:a@example.com)")


def test_an_image_is_left_out_and_its_server_not_asked() -> None:
    html = safe_html("before ![the words](http://example.com/x.png) after")
    assert "example.com" not in html
    assert "before" in html


HALF = LONGEST_BYTES // 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * LONGEST_BYTES,
        "![" * HALF,
        "[a](" * (HALF // 2),
        "*a **a " * (LONGEST_BYTES // 7),
        "".join(f"e{'`' * length}" for length in range(1, 350)),
        "[x]: /" + "u" * 20000 + "\n" + "[x]" * 14000,
        "|a|b|\n|-|-|\n" + "|\n" * (HALF - 8),
        "\\" * LONGEST_BYTES,
        "[^a]" * (HALF // 2),
        "**x** " * (LONGEST_BYTES // 6),
        "<!--" * (HALF // 2),
    ],
    ids=lambda text: text[:6],
)
def test_what_is_made_to_take_long_does_not(text: str) -> None:
    began = time.process_time()
    safe_html(text)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "text",
    [
        ">" * LONGEST_BYTES,
        "> " * HALF,
        "*a " * 5000 + "a*" * 5000,
        "- " * 5 + "x\n" + "".join("  " * n + "- x\n" for n in range(200)),
    ],
    ids=["quotes", "spaced quotes", "emphasis", "lists"],
)
def test_what_nests_too_deeply_is_refused_before_it_takes_long(text: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidParams, match="nests deeper than 100"):
        safe_html(text)
    assert time.process_time() - began < 2


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(BodyTooLarge):
        safe_html("é" * HALF + "x")
