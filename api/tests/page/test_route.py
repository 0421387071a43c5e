"""The page's routes: what they answer, and to whom."""

import re
from pathlib import Path

import httpx
import pytest

from api.page.route import FILES
from testbed.api_app import StartApp

MARKDOWN = {"Content-Type": "text/markdown"}


@pytest.mark.parametrize(
    "path", ["/", *(f"/page/{file.name}" for file in sorted(FILES.iterdir()) if file.suffix != ".html")]
)
async def test_every_file_has_its_type_and_the_strict_policy(http: httpx.AsyncClient, path: str) -> None:
    reply = await http.get(path)
    assert reply.status_code == 200
    kind = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", "": "text/html"}[Path(path).suffix]
    assert reply.headers["content-type"].partition(";")[0] == kind
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert (await http.head(path)).status_code == 200
    again = await http.get(path, headers={"If-None-Match": reply.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_names_no_address_outside_of_it() -> None:
    for file in FILES.iterdir():
        outside = re.findall(r"https?://[^\s\"'<>)]+", file.read_text())
        assert set(outside) <= {"http://www.w3.org/2000/svg"}, file.name
    index = (FILES / "index.html").read_text()
    assert not re.search(r"<script(?![^>]* src=)|<style|\sstyle=|\son\w+=", index)


async def test_markdown_comes_back_as_safe_html(http: httpx.AsyncClient) -> None:
    reply = await http.post("/page/markdown", content="*a* <script>", headers=MARKDOWN)
    assert reply.text == "<p><em>a</em> &lt;script&gt;</p>\n"
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"x" * 70_000, MARKDOWN, 413),
        (b"\xff", MARKDOWN, 400),
        (b">" * 1000, MARKDOWN, 400),
        (b"x", {"Content-Type": "text/plain"}, 415),
        (b"x", {}, 415),
    ],
)
async def test_what_cannot_be_rendered_is_refused(
    http: httpx.AsyncClient, content: bytes, headers: dict[str, str], status: int
) -> None:
    reply = await http.post("/page/markdown", content=content, headers=headers)
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


async def test_markdown_needs_a_key_where_there_are_some_and_the_page_does_not(start_app: StartApp) -> None:
    async with start_app(api_keys={"k": "t"}) as http:
        assert (await http.get("/")).status_code == 200
        assert (await http.post("/page/markdown", content="a", headers=MARKDOWN)).status_code == 401
        key = {"Authorization": "Bearer k"}
        assert (await http.post("/page/markdown", content="a", headers=MARKDOWN | key)).status_code == 200


async def test_a_setting_switches_it_off(start_app: StartApp) -> None:
    async with start_app(chat_page=False) as http:
        for path in ("/", "/page/main.js"):
            assert (await http.get(path)).status_code == 404
        assert (await http.post("/page/markdown", content="a", headers=MARKDOWN)).status_code == 404
        assert (await http.post("/rpc", json={"jsonrpc": "2.0", "id": 1, "method": "tool_list"})).status_code == 200
