"""Markdown as HTML that is safe to show, whoever wrote it."""

import re

import comrak
import nh3

from api.errors import BodyTooLarge, InvalidParams

LONGEST_BYTES = 64 * 1024
"""Of one text. The worst that fits takes a tenth of a second; the page shows what is longer as it is."""
DEEPEST = 100
"""Elements within each other. The sanitiser's time grows with their number times their depth: 32,768 quotes within each
other took it 20 s."""

_EXTENSIONS = comrak.ExtensionOptions()
_EXTENSIONS.autolink = _EXTENSIONS.strikethrough = _EXTENSIONS.table = _EXTENSIONS.tasklist = True
_EXTENSIONS.cjk_friendly_emphasis = True
_PARSING = comrak.ParseOptions()
_RENDERING = comrak.RenderOptions()
_RENDERING.escape = True  # a model that writes `<div>` without backquotes means the text

_TAG = re.compile(r"<(/)?(?:[a-gi-z]|h[1-6])[a-z]*(?<!<br)(?<!<input)[ >]")
"""Of comrak's, except for those that hold nothing."""

_TAGS = {"a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "input", "li", "ol"}
_TAGS |= {"p", "pre", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul"}
_ATTRIBUTES = {
    "a": {"href", "title"},
    "code": {"class"},
    "input": {"type", "checked", "disabled"},
    "ol": {"start"},
    "td": {"align"},
    "th": {"align"},
}


def safe_html(text: str) -> str:
    """GitHub's dialect, without HTML of its own and without images: those would tell their server who reads.

    Raises BodyTooLarge, InvalidParams.
    """
    if len(text.encode()) > LONGEST_BYTES:
        raise BodyTooLarge(f"the text is longer than {LONGEST_BYTES} bytes")
    html = comrak.render_markdown(text, _EXTENSIONS, _PARSING, _RENDERING)
    if _depth(html) > DEEPEST:
        raise InvalidParams(f"the text nests deeper than {DEEPEST} levels")
    return nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}, "input": {"type": "checkbox", "disabled": ""}},
    )


def _depth(html: str) -> int:
    deepest = depth = 0
    for tag in _TAG.finditer(html):
        depth += -1 if tag[1] else 1
        deepest = max(deepest, depth)
    return deepest
