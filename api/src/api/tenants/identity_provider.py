"""Tokens of an OpenID Connect provider -> callers. Its signing keys are fetched beside the event loop, and kept."""

import asyncio
import json
import logging
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
from prometheus_client import Gauge
from pydantic import TypeAdapter, ValidationError

from api.errors import Unauthorized, Unavailable
from api.tenants.caller import OPEN, Caller, Policy, TenantName

log = logging.getLogger(__name__)

REFRESH_SECONDS = 300.0
FETCH_AGAIN_SECONDS = 10.0
"""Between two fetches that tokens of unknown keys bring about."""
FETCH_SECONDS = 5.0
MOST_BYTES = 1024 * 1024
LONGEST_TOKEN = 8192
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""None that is signed with a shared secret."""
LEEWAY_SECONDS = 30
"""By which clocks may differ."""
DEFAULT_POLICY = "default"
"""Of tokens that name none, where the file of the keys has it among its `policies`."""

_TENANT: TypeAdapter[str] = TypeAdapter(TenantName)


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """Whose tokens are taken, and what is read from them."""

    issuer: str
    audience: str
    jwks_url: str
    tenant_claim: str
    policy_claim: str
    """Empty: no token names a policy."""


class IdentityProvider:
    """One provider."""

    def __init__(self, settings: ProviderSettings, *, unusable: Gauge) -> None:
        """`unusable` is 1 while its signing keys cannot be fetched; those that were fetched before hold."""
        self._settings = settings
        self._unusable = unusable
        self._keys: dict[str, jwt.PyJWK] | None = None
        self._fetched_at = float("-inf")
        self._lock = asyncio.Lock()
        self._complaint = ""

    async def run(self) -> None:
        """Keeps the signing keys fresh until cancelled."""
        while True:
            await self._fetch(older_than=0)
            await asyncio.sleep(REFRESH_SECONDS)

    async def prepare(self, token: str) -> None:
        """Fetches the signing keys if the token has one that is not known, at most every few seconds."""
        if looks_like_token(token) and (self._keys is None or _key_id(token) not in self._keys):
            await self._fetch(older_than=FETCH_AGAIN_SECONDS)

    def caller(self, token: str, policies: Mapping[str, Policy]) -> Caller:
        """Whose token this is. Raises Unauthorized, or Unavailable while no signing key could be fetched."""
        if self._keys is None:
            raise Unavailable("The signing keys of the identity provider cannot be fetched.", retry_after=5)
        key = self._keys.get(_key_id(token))
        if key is None:
            raise Unauthorized("The token is signed with a key that its issuer does not publish.")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError:
            raise Unauthorized("The token has expired.") from None
        except jwt.InvalidTokenError as error:
            raise Unauthorized(f"The token is not valid here: {type(error).__name__}.") from None
        return self._caller_of(claims, policies)

    def _caller_of(self, claims: Mapping[str, Any], policies: Mapping[str, Policy]) -> Caller:
        try:
            tenant = _TENANT.validate_python(claims.get(self._settings.tenant_claim), strict=True)
        except ValidationError:
            raise Unauthorized(f"The token's claim {self._settings.tenant_claim!r} names no tenant.") from None
        name = claims.get(self._settings.policy_claim) if self._settings.policy_claim else None
        if name is None:
            name, policy = DEFAULT_POLICY, policies.get(DEFAULT_POLICY, OPEN)
        elif isinstance(name, str) and name in policies:
            policy = policies[name]
        else:
            raise Unauthorized(f"The token's claim {self._settings.policy_claim!r} names no policy of this server.")
        # No key's id has a slash.
        return Caller(tenant, f"oidc/{name}", policy)

    async def _fetch(self, *, older_than: float) -> None:
        async with self._lock:
            if time.monotonic() - self._fetched_at < older_than:
                return
            try:
                self._keys = await asyncio.to_thread(_fetched, self._settings.jwks_url)
            except Exception as error:
                self._unusable.set(1)
                complaint = f"{type(error).__name__}: {str(error)[:200]}"
                if complaint != self._complaint:
                    log.error(
                        "the signing keys of %s cannot be fetched, those before hold: %s",
                        self._settings.issuer,
                        complaint,
                    )
                self._complaint = complaint
            else:
                self._unusable.set(0)
                self._complaint = ""
            self._fetched_at = time.monotonic()


def looks_like_token(text: str) -> bool:
    """Three parts, as a signed token has; no API key of ours has a dot."""
    return text.count(".") == 2 and len(text) <= LONGEST_TOKEN


def _key_id(token: str) -> str:
    try:
        return str(jwt.get_unverified_header(token).get("kid", ""))
    except jwt.InvalidTokenError:
        return ""


def _fetched(url: str) -> dict[str, jwt.PyJWK]:
    """The published keys by their ids, in bounded time and size. Those of kinds that are not known are left out."""
    until = time.monotonic() + FETCH_SECONDS
    text = b""
    with urllib.request.urlopen(url, timeout=FETCH_SECONDS) as reply:  # noqa: S310  # the settings take http(s) only
        while chunk := reply.read1(65536):
            text += chunk
            if len(text) > MOST_BYTES or time.monotonic() > until:
                raise ValueError(f"the answer is longer than {MOST_BYTES} bytes or took more than {FETCH_SECONDS:g} s")
    keys = {}
    for entry in json.loads(text)["keys"]:
        try:
            key = jwt.PyJWK(entry)
        except jwt.PyJWTError:
            continue
        if entry.get("use", "sig") == "sig" and key.algorithm_name in ALGORITHMS:
            keys[str(entry.get("kid", ""))] = key
    return keys
