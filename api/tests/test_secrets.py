"""No key, password or token stands in what a server writes, however it is called and whatever fails."""

import httpx
import pytest

from api.settings import Settings
from api.tenants.key_file import sha256_of
from testbed.api_process import CREATE, StartProcess, eventually
from testbed.ports import free_port

KEY, PASSWORD = "hr_sesame-of-a-client", "sesame-of-redis"
JWT = "eyJhbGciOiJSUzI1NiJ9.sesame-of-a-provider.sesame"
FILE = f'{{"keys": [{{"id": "k", "tenant": "t", "sha256": "{sha256_of(KEY)}"}}]}}'


def call_every_door(public: str) -> None:
    """With a key that fits and with others, well and badly."""
    chat = {"model": "no such", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
    with httpx.Client(base_url=public, timeout=20) as http:
        for secret in (KEY, KEY + "x", JWT):
            for headers in ({"Authorization": f"Bearer {secret}"}, {"x-api-key": secret}):
                http.post("/rpc", json=CREATE, headers=headers)
                http.post("/rpc", json={**CREATE, "params": {"message": 5}}, headers=headers)
                http.post("/rpc", content=b"{", headers=headers | {"Content-Type": "application/json"})
                http.post("/v1/chat/completions", json=chat, headers=headers)
                http.post("/v1/messages", json=chat, headers=headers)
                http.get("/v1/models/none", headers=headers)
                http.get("/stream/none", headers=headers)
            http.get("/stream/none", params={"access_token": secret})
            http.get("/stream/none", params={"stream_token": secret})


@pytest.mark.parametrize("redis_is_there", [True, False])
def test_neither_keys_nor_passwords_reach_the_log(start: StartProcess, redis_is_there: bool) -> None:
    options = {} if redis_is_there else {"redis_url": f"redis://:{PASSWORD}@127.0.0.1:{free_port()}/0"}
    process = start(api_keys=FILE, log_level="DEBUG", redis_timeout="0.5", **options)
    internal = process.url("Probes and metrics")
    eventually(internal + "/readyz", 200 if redis_is_there else 503)
    call_every_door(process.url("Requests"))
    told = httpx.get(internal + "/metrics").text + httpx.get(internal + "/readyz").text
    assert process.stop() == 0
    assert "api.audit" in process.log
    assert "sesame" not in process.log + told


def test_settings_print_no_secret() -> None:
    settings = Settings(api_keys={KEY: "t"}, redis_url=f"redis://:{PASSWORD}@r/0")
    assert "sesame" not in f"{settings!r} {settings} {settings.model_dump_json(exclude={'api_keys'})}"
