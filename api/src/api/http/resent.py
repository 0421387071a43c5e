"""The same request once more, as OpenAI's and Anthropic's clients send it after a lost connection, a time-out or a 5xx.

They name no key: the same bytes come again, and a header counts the tries. A first try is always a task of its own.
"""

import hashlib

from fastapi import Request

from shared.store.task_record import Resent


def resent(request: Request, body: bytes, task: int = 0) -> Resent:
    """What tells the tries of this request from other requests, and whether this is a later one.

    `task`: which of them, where one request makes several.
    """
    said = request.url.path.encode() + b"\0" + body + (b"\0%d" % task if task else b"")
    digest = hashlib.blake2b(said, digest_size=20).hexdigest()
    count = request.headers.get("x-stainless-retry-count", "0").strip()
    return Resent(digest, joins=count.isdigit() and int(count) > 0)
