"""Tokens of an identity provider, with real signatures and a real server that publishes the keys."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from prometheus_client import CollectorRegistry, Gauge

from api.errors import Unauthorized, Unavailable
from api.tenants.caller import Policy
from api.tenants.identity_provider import IdentityProvider, ProviderSettings
from api.tenants.key_file import sha256_of
from api.tenants.stream_tokens import AUDIENCE as STREAM_AUDIENCE
from shared.store.limits import Limits
from testbed.api_app import StartApp, rpc

ISSUER, AUDIENCE = "https://idp.example.com", "headrace"
FIRST, SECOND = (rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2))
CURVE = ec.generate_private_key(ec.SECP256R1())
SMALL = Policy(limits=Limits(requests_per_minute=5))


class Published:
    """What the provider publishes, and how often it was asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk("one", FIRST)]
        self.body: bytes | None = None
        """In place of the keys."""
        self.asked = 0
        self.url = ""

    def reply(self) -> bytes:
        self.asked += 1
        return json.dumps({"keys": self.keys}).encode() if self.body is None else self.body


def jwk(name: str, key: Any, **more: Any) -> dict[str, Any]:
    algorithm: Any = ECAlgorithm if isinstance(key, ec.EllipticCurvePrivateKey) else RSAAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": name, "use": "sig", **more}


@pytest.fixture
def published() -> Iterator[Published]:
    published = Published()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = published.reply()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    published.url = f"http://127.0.0.1:{server.server_port}/jwks"
    yield published
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def unusable() -> Gauge:
    return Gauge("unusable", "", registry=CollectorRegistry())


@pytest.fixture
def provider(published: Published, unusable: Gauge, monkeypatch: pytest.MonkeyPatch) -> IdentityProvider:
    monkeypatch.setattr("api.tenants.identity_provider.FETCH_AGAIN_SECONDS", 0)
    settings = ProviderSettings(ISSUER, AUDIENCE, published.url, "team", "plan")
    return IdentityProvider(settings, unusable=unusable)


def token(key: Any = FIRST, name: str = "one", algorithm: str = "RS256", **changes: Any) -> str:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "team": "a", "plan": "small", **changes}
    left = {claim: value for claim, value in claims.items() if value is not None}
    return jwt.encode(left, key, algorithm, headers={"kid": name})


async def test_a_token_names_its_tenant_and_its_policy(provider: IdentityProvider) -> None:
    sent = token()
    await provider.prepare(sent)
    caller = provider.caller(sent, {"small": SMALL})
    assert (caller.tenant, caller.policy) == ("a", SMALL)
    assert caller.account is not None
    assert caller.account.name == "a:oidc/small"


async def test_a_token_that_names_no_policy_has_the_default_one(provider: IdentityProvider) -> None:
    sent = token(plan=None)
    await provider.prepare(sent)
    assert provider.caller(sent, {"default": SMALL}).policy == SMALL
    assert provider.caller(sent, {}).policy == Policy()


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": time.time() - 60},
        {"exp": None},
        {"nbf": time.time() + 3600},
        {"iss": "https://other.example.com"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"team": None},
        {"team": "a:b"},
        {"team": 5},
        {"team": ["a"]},
        {"plan": "unknown"},
        {"plan": {"limits": {}}},
        {"key": SECOND},
        {"name": "unknown"},
    ],
    ids=lambda changes: str(list(changes)),
)
async def test_a_token_that_is_not_for_this_server_is_refused(
    provider: IdentityProvider, changes: dict[str, Any]
) -> None:
    sent = token(**changes)
    await provider.prepare(sent)
    with pytest.raises(Unauthorized):
        provider.caller(sent, {"small": SMALL})


async def test_no_secret_that_everybody_knows_signs_a_token(provider: IdentityProvider, published: Published) -> None:
    """The public key as the secret of HS256, a published shared secret, and no signature at all."""
    published.keys += [
        {"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldCE", "kid": "shared", "alg": "HS256"}
    ]
    shared = jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "team": "a"},
                        "secret-secret-secret-secret-secret!", "HS256", headers={"kid": "shared"})  # fmt: skip
    unsigned = token("", algorithm="none")
    confused = jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "team": "a"},
                          str(jwk("one", FIRST)["n"]), "HS256", headers={"kid": "one"})  # fmt: skip
    for sent in (shared, unsigned, confused):
        await provider.prepare(sent)
        with pytest.raises(Unauthorized):
            provider.caller(sent, {})


async def test_a_new_signing_key_is_fetched_when_the_first_token_of_it_comes(
    provider: IdentityProvider, published: Published
) -> None:
    await provider.prepare(token())
    published.keys = [jwk("two", SECOND), jwk("three", CURVE)]
    for sent in (token(SECOND, "two"), token(CURVE, "three", "ES256")):
        await provider.prepare(sent)
        assert provider.caller(sent, {"small": SMALL}).tenant == "a"
    with pytest.raises(Unauthorized):
        provider.caller(token(), {"small": SMALL})


async def test_tokens_of_unknown_keys_do_not_flood_the_provider(
    provider: IdentityProvider, published: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.tenants.identity_provider.FETCH_AGAIN_SECONDS", 60)
    for number in range(20):
        await provider.prepare(token(name=f"k{number}"))
    assert published.asked == 1


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b"{}", b" " * 2_000_000, b'{"keys": 5}'], ids=range(6))
async def test_a_provider_that_fails_leaves_the_keys_that_were_fetched(
    provider: IdentityProvider, published: Published, unusable: Gauge, body: bytes
) -> None:
    await provider.prepare(token())
    published.body = body
    await provider.prepare(token(name="unknown"))
    assert [sample.value for family in unusable.collect() for sample in family.samples] == [1]
    assert provider.caller(token(), {"small": SMALL}).tenant == "a"


async def test_before_any_key_was_fetched_a_token_is_to_come_again(
    provider: IdentityProvider, published: Published
) -> None:
    published.body = b""
    await provider.prepare(token())
    with pytest.raises(Unavailable):
        provider.caller(token(), {})


def of_both(published: Published) -> dict[str, Any]:
    """Settings of a server that takes the provider's tokens, and a key of the tenant b."""
    return {
        "api_keys": {
            "keys": [{"id": "k", "tenant": "b", "sha256": sha256_of("hr_b")}],
            "policies": {"reader": {"scopes": ["read"]}},
        },
        "oidc_issuer": ISSUER, "oidc_audience": AUDIENCE, "oidc_jwks_url": published.url,
        "oidc_tenant_claim": "team", "oidc_policy_claim": "plan",
    }  # fmt: skip


async def test_tokens_and_keys_open_the_same_doors(start_app: StartApp, published: Published) -> None:
    async with start_app(**of_both(published)) as http:
        mine, reader = token(plan=None), token(plan="reader")
        task_id = (await rpc(http, "create_message", {"message": "hi"}, key=mine))["result"]["taskId"]
        assert "result" in await rpc(http, "get_message", {"taskId": task_id}, key=reader)
        assert (await rpc(http, "cancel_message", {"taskId": task_id}, key=reader))["error"]["code"] == -32011
        assert (await rpc(http, "get_message", {"taskId": task_id}, key="hr_b"))["error"]["code"] == -32002
        for headers in ({"x-api-key": mine}, {"Authorization": f"Bearer {mine}"}):
            body = {"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "hi"}]}
            counted = await http.post("/v1/messages/count_tokens", json=body, headers=headers)
            assert counted.status_code == 503  # nobody is there to count, but the token was taken
        assert (await http.post("/rpc", json={}, headers={"Authorization": "Bearer a.b.c"})).status_code == 401


async def test_a_token_and_a_key_together_or_in_each_other_s_place_open_nothing(
    start_app: StartApp, published: Published
) -> None:
    async with start_app(**of_both(published)) as http:
        mine = token(plan=None)
        task_id = (await rpc(http, "create_message", {"message": "hi"}, key=mine))["result"]["taskId"]
        issued = await rpc(http, "stream_token", {"taskId": task_id}, key=mine)
        for_stream = issued["result"]["streamToken"]
        mixed = [
            {"Authorization": f"Bearer {mine}", "x-api-key": "hr_b"},
            {"Authorization": "Bearer hr_b", "x-api-key": mine},
            {"Authorization": f"Bearer {mine}", "x-api-key": for_stream},
            {"Authorization": f"Bearer {mine} hr_b"},
            {"Authorization": f"Bearer hr_b.{mine}"},
            {"Authorization": f"Bearer {mine}.hr_b"},
            {"Authorization": f"Bearer {for_stream}"},
            {"x-api-key": f"Bearer {mine}"},
        ]
        for headers in mixed:
            for path in ("/v1/models", f"/stream/{task_id}", f"/v1/streams/{task_id}?stream_token={for_stream}"):
                assert (await http.get(path, headers=headers)).status_code == 401, (path, headers)
            for path in ("/rpc", "/v1/messages", "/v1/responses"):
                assert (await http.post(path, headers=headers, json={})).status_code == 401, (path, headers)
        for wrong in (mine, "hr_b", token(aud=STREAM_AUDIENCE, task=task_id, tenant="a")):
            assert (await http.get(f"/stream/{task_id}?stream_token={wrong}")).status_code == 401
        assert (await http.head(f"/stream/{task_id}?stream_token={for_stream}")).status_code == 200
