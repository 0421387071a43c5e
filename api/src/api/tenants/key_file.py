"""The file of API keys: which there are, as hashes, and what each may do.

    {"keys": [{"id": "chat", "tenant": "team-a", "sha256": "…", "policy": {"limits": {"requestsPerMinute": 60}}}],
     "policies": {"batch": {"models": ["small"]}}}

`headrace keys` writes it. A map from keys in plain text to tenants, its form before, is still read.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import AwareDatetime, Field, ValidationError, model_validator

from api.tenants.caller import OPEN, Policy, TenantName
from shared.wire.schemas import WireType

MOST_BYTES = 8 * 1024 * 1024
"""Of the file: a Kubernetes Secret holds one."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ReplacedKey(WireType):
    """What the key was before it was rotated."""

    sha256: Sha256
    expires: AwareDatetime
    """Until when it is still taken."""


class Key(WireType):
    """One API key."""

    id: Annotated[str, Field(pattern=r"^[\w.-]{1,64}$")]
    """Names it in logs, and counts its use: no other key of the file has it."""
    tenant: TenantName
    sha256: Sha256
    """Of the key. It has 256 random bits, so that no slower hash is needed (docs/decisions)."""
    created: AwareDatetime | None = None
    expires: AwareDatetime | None = None
    """From then on it is refused; null: never."""
    replaced: ReplacedKey | None = None
    policy: Policy | str = OPEN
    """What it may do, or the name of one of `policies`."""


class KeyFile(WireType):
    """All keys of an installation."""

    keys: tuple[Key, ...] = ()
    policies: Annotated[dict[str, Policy], Field(default_factory=dict)]
    """By name: for keys, and for tokens of an identity provider, which name one."""

    @model_validator(mode="after")
    def _names_are_known_and_used_once(self) -> "KeyFile":
        seen: set[str] = set()
        for key in self.keys:
            if isinstance(key.policy, str) and key.policy not in self.policies:
                raise ValueError(f"the key {key.id!r} has the policy {key.policy!r}, which is not in `policies`")
            for name in (key.id, key.sha256):
                if name in seen:
                    raise ValueError(f"two keys have the id or the hash of {key.id!r}")
                seen.add(name)
        return self

    def policy_of(self, key: Key) -> Policy:
        """What the key may do."""
        return self.policies[key.policy] if isinstance(key.policy, str) else key.policy


class PlainKeyFile(KeyFile):
    """What is read from the form before: keys in plain text, which the next version no longer takes."""


def read_key_file(path: Path) -> KeyFile:
    """Raises ValueError with a sentence that holds no key."""
    try:
        with path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"is neither JSON nor a readable file: {error.strerror}") from None
    if len(text) > MOST_BYTES:
        raise ValueError(f"has more than {MOST_BYTES} bytes")
    return parse_keys(text)


def parse_keys(text: bytes | str) -> KeyFile:
    """Raises ValueError with a sentence that holds no key."""
    try:
        return as_key_file(json.loads(text) if text.strip() else {})
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"is not valid JSON: {error}") from None


def as_key_file(value: Any) -> KeyFile:
    """Raises ValueError with a sentence that holds no key."""
    if not isinstance(value, dict):
        raise ValueError('must be a JSON object: {"keys": […]}')
    if _is_plain(value):
        return _from_plain(value)
    try:
        return KeyFile.model_validate(value, by_alias=True, by_name=False)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise ValueError(
            f"{place}: {problem['msg']}" if place else problem["msg"].removeprefix("Value error, ")
        ) from None


def _is_plain(value: Mapping[str, Any]) -> bool:
    """Whether this is the form before: a map from keys in plain text to tenants."""
    return bool(value) and all(isinstance(tenant, str) for tenant in value.values())


def _from_plain(tenants: Mapping[str, str]) -> PlainKeyFile:
    keys = []
    for number, (key, tenant) in enumerate(tenants.items(), 1):
        if not (key.isascii() and key.isprintable() and key.strip() == key != ""):
            raise ValueError(f"key number {number} is empty, or not printable ASCII without spaces around it")
        try:
            keys.append(Key(id=f"plain-{number}", tenant=tenant, sha256=sha256_of(key)))
        except ValidationError:
            raise ValueError(
                f"the tenant of key number {number} must be 1 to 128 printable characters without ':'"
            ) from None
    return PlainKeyFile(keys=tuple(keys))


def sha256_of(key: str) -> str:
    """The form in which keys are kept."""
    return hashlib.sha256(key.encode()).hexdigest()


def has_expired(moment: datetime | None) -> bool:
    """Whether this time is over."""
    return moment is not None and moment <= datetime.now(UTC)
