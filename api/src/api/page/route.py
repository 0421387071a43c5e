"""`GET /`, its files below `/page`, and `POST /page/markdown`."""

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.requests import ClientDisconnect
from starlette.staticfiles import StaticFiles

from api.errors import InvalidParams, UnsupportedMediaType
from api.http.dependencies import caller_of
from api.http.request_body import read_body
from api.page.markdown import LONGEST_BYTES, safe_html

FILES = Path(__file__).with_name("files")
HEADERS = {
    # Scripts, styles and connections of this origin, and nothing else; HTML only by way of the page's one policy.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types headrace-markdown",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Asked again each time, by ETag: after an update no file of the old version is used beside new ones.
    "Cache-Control": "no-cache",
}

router = APIRouter()


class _Files(StaticFiles):
    """Files with the page's headers."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers.update(HEADERS)
        return response


_files = _Files(directory=FILES)


def add_page(app: FastAPI) -> None:
    """Lets the application serve the page."""
    app.include_router(router)
    app.mount("/page", _files)


@router.head("/", include_in_schema=False)
@router.get("/", include_in_schema=False)
async def page(request: Request) -> Response:
    """The page itself."""
    return await _files.get_response("index.html", request.scope)


@router.post("/page/markdown", include_in_schema=False)
async def markdown(request: Request) -> Response:
    """The HTML of the Markdown in the body, as text: it is no page of its own."""
    caller_of(request)
    # Forms of other sites cannot send this type; their scripts must ask first.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/markdown":
        raise UnsupportedMediaType("The body must be Markdown: send `Content-Type: text/markdown`.")
    try:
        body = await read_body(request, LONGEST_BYTES)
        text = body.decode()
    except UnicodeDecodeError:
        raise InvalidParams("the body is not UTF-8") from None
    except ClientDisconnect:
        return Response(status_code=400)  # nobody reads it
    return Response(await asyncio.to_thread(safe_html, text), headers=HEADERS, media_type="text/plain")
