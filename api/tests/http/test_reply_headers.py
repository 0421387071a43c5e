"""What every reply carries, of whichever door."""

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute

from api.app import create_app, create_internal_app
from api.settings import Settings

PAGES = {"/", "/docs", "/redoc", "/docs/oauth2-redirect"}


def routes(app: Any) -> list[tuple[str, str]]:
    """Every route with every method, as it is asked for."""
    found = {("GET", "/openapi.json"), ("GET", "/nowhere"), ("OPTIONS", "/rpc"), ("DELETE", "/rpc")}
    for path, operations in app.openapi()["paths"].items():
        found |= {(method.upper(), path) for method in operations}
    for route in app.routes:
        if isinstance(route, APIRoute):
            found |= {(method, route.path) for method in route.methods or ()}
    return sorted((method, path.split("{")[0] + "x" if "{" in path else path) for method, path in found)


@pytest.mark.parametrize(("method", "path"), routes(create_app(Settings())), ids=str)
async def test_no_browser_takes_a_reply_for_a_page(http: httpx.AsyncClient, method: str, path: str) -> None:
    body = b"{}" if method == "POST" else None
    reply = await http.request(method, path, content=body, headers={"Origin": "https://evil.example"})
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "no-referrer"
    policy = reply.headers.get("Content-Security-Policy", "")
    assert path in PAGES or "default-src 'none'" in policy
    assert path != "/" or "frame-ancestors 'none'" in policy
    # No page of another's may read it, unless the operator names that page's address.
    assert not [name for name in reply.headers if name.startswith("access-control-")]
    assert "server" not in reply.headers


async def test_the_second_port_is_no_page_either(app_and_client: tuple[FastAPI, httpx.AsyncClient]) -> None:
    transport = httpx.ASGITransport(create_internal_app(app_and_client[0]))
    async with httpx.AsyncClient(transport=transport, base_url="http://internal") as internal:
        for path in ("/healthz", "/readyz", "/metrics", "/internal/scaling/x", "/nowhere", "/docs", "/openapi.json"):
            reply = await internal.get(path, headers={"Origin": "https://evil.example"})
            assert reply.headers["X-Content-Type-Options"] == "nosniff", path
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"], path
            assert not [name for name in reply.headers if name.startswith("access-control-")]


async def test_a_page_says_its_own_policy(http: httpx.AsyncClient) -> None:
    reply = await http.get("/docs")
    assert reply.headers["content-type"].startswith("text/html")
    assert "Content-Security-Policy" not in reply.headers


@pytest.mark.parametrize(("sent", "kept"), [("abc-1", True), ("a b", False), ("x" * 129, False), ("<script>", False)])
async def test_a_request_keeps_its_id_if_that_is_one(http: httpx.AsyncClient, sent: str, kept: bool) -> None:
    reply = await http.get("/v1/models", headers={"x-request-id": sent})
    assert (reply.headers["x-request-id"] == sent) is kept
