"""The doors whose reply is the answer itself, with a request for each, and keys to come through them."""

from typing import Any

from api.tenants.key_file import sha256_of
from testbed.fake_worker import DEFAULT_MODEL

CHAT: dict[str, Any] = {"model": DEFAULT_MODEL, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
ANSWERING_DOORS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", CHAT),
    ("/v1/completions", {"model": DEFAULT_MODEL, "prompt": "hi"}),
    ("/v1/messages", CHAT),
    ("/v1/responses", {"model": DEFAULT_MODEL, "input": "hi"}),
]


def key_file(*names: str, **policy: Any) -> dict[str, Any]:
    """The content of a file of keys: `hr_NAME` for each name, all of the tenant `t` and with this policy."""
    entries = [{"id": name, "tenant": "t", "sha256": sha256_of(f"hr_{name}"), "policy": policy} for name in names]
    return {"keys": entries}
