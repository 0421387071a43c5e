"""What is left of a caller's limits per minute, in the headers of OpenAI's API."""

from shared.store.limits import Allowance

ALLOWANCE_HEADERS = [
    f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")
]


def allowance_headers(allowance: Allowance | None) -> dict[str, str]:
    """`x-ratelimit-limit-requests`, `-remaining-` and `-reset-`, and those of tokens; none where there is no limit."""
    headers: dict[str, str] = {}
    if allowance is not None:
        for name, left in (("requests", allowance.requests), ("tokens", allowance.tokens)):
            if left is not None:
                headers |= {
                    f"x-ratelimit-limit-{name}": str(left.limit),
                    f"x-ratelimit-remaining-{name}": str(max(0, left.remaining)),
                    f"x-ratelimit-reset-{name}": _duration(left.reset_seconds),
                }
    return headers


def _duration(seconds: float) -> str:
    """As OpenAI writes it: `120ms`, `17.5s`, `6m0s`."""
    milliseconds = round(seconds * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1000:g}s" if minutes else f"{rest / 1000:g}s"
