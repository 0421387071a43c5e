"""Digests of the beginnings of a request's prompt: by them a task finds the worker that has computed one before.

They are of what the model is shown, before any template: tools, then message by message. So whatever a client names a
conversation by (`conversationId`, `previous_response_id`, `prompt_cache_key`), its beginning is found by its digest.
"""

from base64 import urlsafe_b64encode
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from shared.wire.schemas import InferenceRequest

FIRST_BYTES = 512
"""About 128 tokens. A shorter prompt is computed sooner than it is sent anywhere."""
STEPS = 12
"""Beginnings of 512 bytes, 1 KiB, … 1 MiB: of what prompts share, a document or a system prompt."""
ENDS = 8
"""Of the newest messages: in a conversation's next turn the last one of this turn is among them."""
DIGEST_BYTES = 9


@dataclass(frozen=True, slots=True)
class Beginnings:
    """Digests of one prompt, of the longest beginning first."""

    long: tuple[str, ...] = ()
    """Of half of the prompt and more: it pays to go where one of them is warm."""
    short: tuple[str, ...] = ()
    """Of less: prompts that are shorter may want to come after this one."""


def beginnings_of(request: InferenceRequest, tenant: str) -> Beginnings:
    """At most STEPS + ENDS. Tenants have none in common: none can learn of another's."""
    digest = blake2b(f"{tenant}\n".encode(), digest_size=DIGEST_BYTES)
    steps = [FIRST_BYTES << step for step in range(STEPS)]
    found: dict[int, str] = {}
    ends: deque[tuple[int, str]] = deque(maxlen=ENDS)
    size = 0
    for part in _parts(request):
        begin, at = size, 0
        size += len(part)
        for step in steps:
            if begin < step <= size:
                digest.update(part[at : step - begin])
                at = step - begin
                found[step] = _text(digest)
        digest.update(part[at:])
        if size >= FIRST_BYTES:
            ends.append((size, _text(digest)))
    found.update(ends)
    sizes = sorted(found, reverse=True)
    return Beginnings(
        tuple(found[at] for at in sizes if 2 * at >= size), tuple(found[at] for at in sizes if 2 * at < size)
    )


def _parts(request: InferenceRequest) -> Iterator[bytes]:
    if request.prompt is not None:
        prompt = request.prompt
        yield (prompt if isinstance(prompt, str) else " ".join(map(str, prompt))).encode()
        return
    if request.tool_choice != "none":
        for tool in request.tools:
            yield tool.model_dump_json(exclude_none=True).encode()
    for message in request.messages:
        yield message.model_dump_json(exclude_none=True).encode()


def _text(digest: blake2b) -> str:
    return urlsafe_b64encode(digest.digest()).decode()
