"""The body of a request, read within its bounds."""

import asyncio

from fastapi import Request

from api.errors import BodyTooLarge, BodyTooSlow
from api.http.dependencies import backend_of


async def read_body(request: Request, most_bytes: int | None = None) -> bytes:
    """`most_bytes`: None is the setting `max_body_bytes`. Raises BodyTooLarge, BodyTooSlow, or starlette's
    ClientDisconnect.
    """
    settings = backend_of(request).settings
    most_bytes = settings.max_body_bytes if most_bytes is None else most_bytes
    too_large = BodyTooLarge(f"the body is longer than {most_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > most_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(settings.body_timeout):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most_bytes:
                    raise too_large
    except TimeoutError:
        raise BodyTooSlow(f"the body did not arrive within {settings.body_timeout:g} seconds") from None
    return bytes(body)
