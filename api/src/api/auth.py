"""Who is calling: an API key -> the caller."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from api.errors import Unauthorized

DEFAULT_TENANT = "default"
"""Of everybody, where no API keys are configured."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sends a request, as its key tells."""

    tenant: str
    """Whose tasks and conversations are the caller's."""


class KeyRing:
    """The API keys of this installation."""

    def __init__(self, tenants: Mapping[str, str]) -> None:
        """`tenants`: of each key. Without any, no key is asked for, and everybody is one tenant."""
        self._callers = [(key.encode(), Caller(tenant)) for key, tenant in tenants.items()]

    def caller(self, key: str) -> Caller:
        """Whose key this is. Raises Unauthorized."""
        if not self._callers:
            return Caller(DEFAULT_TENANT)
        sent = key.encode()
        found: Caller | None = None
        for known, caller in self._callers:  # all of them, so that the time tells nothing about which one came close
            if hmac.compare_digest(known, sent):
                found = caller
        if found is None:
            raise Unauthorized
        return found
