"""API keys -> callers; follows the file of the keys while the server runs."""

import asyncio
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import Gauge

from api.errors import Unauthorized
from api.tenants.caller import DEFAULT_TENANT, Caller
from api.tenants.identity_provider import IdentityProvider, looks_like_token
from api.tenants.key_file import Key, KeyFile, PlainKeyFile, as_key_file, has_expired, read_key_file, sha256_of

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at the file. Kubernetes itself takes about a minute to bring a changed Secret to its pods."""


class KeyRing:
    """The API keys of this installation."""

    def __init__(
        self,
        source: Path | Mapping[str, Any],
        *,
        unusable: Gauge,
        open_to_all: bool,
        provider: IdentityProvider | None = None,
    ) -> None:
        """`source`: the file, or what would be in one. `unusable` is 1 while the file cannot be used.

        `open_to_all`: no key is asked for, and everybody is one tenant. `provider`: whose tokens are taken in place of
        keys. Raises ValueError.
        """
        self._provider = provider
        self._path = source if isinstance(source, Path) else None
        self._open = open_to_all
        self._unusable = unusable
        self._file = KeyFile()
        self._callers: dict[str, tuple[Caller, datetime | None]] = {}
        self._keys: dict[str, Key] = {}
        self._complaint = ""
        self._use(read_key_file(source) if isinstance(source, Path) else as_key_file(source))

    def caller(self, key: str) -> Caller:
        """Whose key, or whose provider's token, this is. Raises Unauthorized; Unavailable as the provider does."""
        # The time of a look-up by the hash tells nothing about the key that has it.
        known = self._callers.get(sha256_of(key))
        if known is None:
            if self._open:
                return Caller(DEFAULT_TENANT)
            if self._provider is not None and looks_like_token(key):
                return self._provider.caller(key, self._file.policies)
            raise Unauthorized
        caller, expires = known
        if has_expired(expires):
            raise Unauthorized("This API key has expired.")
        return caller

    def holds(self, caller: Caller) -> bool:
        """Whether the caller's key is still one. Tokens of a provider are judged when they are shown, and only then."""
        if not caller.key_id or "/" in caller.key_id:
            return True
        key = self._keys.get(caller.key_id)
        return key is not None and key.tenant == caller.tenant and not has_expired(key.expires)

    async def prepare(self, key: str) -> None:
        """To be called before `caller`: it does not wait, but a provider may have to be asked."""
        if self._provider is not None:
            await self._provider.prepare(key)

    async def run(self) -> None:
        """Follows the file and the provider until cancelled. What cannot be read leaves what was read before."""
        async with asyncio.TaskGroup() as group:
            if self._provider is not None:
                group.create_task(self._provider.run())
            while self._path is not None:
                await asyncio.sleep(LOOK_SECONDS)
                await self.look()

    async def look(self) -> None:
        """Reads the file now. A Secret's mount is a link that is moved at once, so no half-written one is met there."""
        assert self._path is not None
        try:
            file = await asyncio.to_thread(read_key_file, self._path)
        except ValueError as error:
            self._unusable.set(1)
            if str(error) != self._complaint:
                log.error("the keys of %s cannot be used, those that were read before hold: %s", self._path, error)
            self._complaint = str(error)
            return
        self._unusable.set(0)
        self._complaint = ""
        if file != self._file:
            self._use(file)
            log.info("%d API keys were read from %s", len(file.keys), self._path)

    def _use(self, file: KeyFile) -> None:
        callers: dict[str, tuple[Caller, datetime | None]] = {}
        for key in file.keys:
            caller = Caller(key.tenant, key.id, file.policy_of(key))
            callers[key.sha256] = caller, key.expires
            if key.replaced is not None:
                until = min(key.replaced.expires, key.expires or key.replaced.expires)
                callers[key.replaced.sha256] = caller, until
        self._file, self._callers = file, callers
        self._keys = {key.id: key for key in file.keys}
        if isinstance(file, PlainKeyFile):
            log.warning(
                "The API keys are in plain text, a form that the next version no longer reads: "
                "`headrace keys create` makes keys of which only hashes are kept."
            )
