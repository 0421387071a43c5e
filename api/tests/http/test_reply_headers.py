"""What every reply carries, of whichever door."""

import httpx
import pytest

CALLS = [
    ("POST", "/rpc"),
    ("GET", "/stream/x"),
    ("GET", "/v1/models"),
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/messages"),
    ("GET", "/openapi.json"),
    ("GET", "/nowhere"),
]


@pytest.mark.parametrize(("method", "path"), CALLS, ids=str)
async def test_no_browser_takes_a_reply_for_a_page(http: httpx.AsyncClient, method: str, path: str) -> None:
    reply = await http.request(method, path, content=b"{}" if method == "POST" else None)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    assert "default-src 'none'" in reply.headers["Content-Security-Policy"]


async def test_a_page_says_its_own_policy(http: httpx.AsyncClient) -> None:
    reply = await http.get("/docs")
    assert reply.headers["content-type"].startswith("text/html")
    assert "Content-Security-Policy" not in reply.headers


@pytest.mark.parametrize(("sent", "kept"), [("abc-1", True), ("a b", False), ("x" * 129, False), ("<script>", False)])
async def test_a_request_keeps_its_id_if_that_is_one(http: httpx.AsyncClient, sent: str, kept: bool) -> None:
    reply = await http.get("/v1/models", headers={"x-request-id": sent})
    assert (reply.headers["x-request-id"] == sent) is kept
