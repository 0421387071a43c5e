"""Whose key it is, and which keys there are while their file changes."""

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Gauge

from api.errors import Unauthorized
from api.tenants.caller import DEFAULT_TENANT, Caller
from api.tenants.key_file import sha256_of
from api.tenants.key_ring import KeyRing

PLAIN = {"key-of-a": "a", "key-of-b": "b"}


def gauge() -> Gauge:
    return Gauge("unusable", "", registry=CollectorRegistry())


def value_of(gauge: Gauge) -> float:
    (family,) = gauge.collect()
    return family.samples[0].value


def ring(source: Any, unusable: Gauge | None = None, *, open_to_all: bool = False) -> KeyRing:
    return KeyRing(source, unusable=unusable or gauge(), open_to_all=open_to_all)


def entry(name: str, **fields: Any) -> dict[str, Any]:
    """A key file's entry for the key `hr_<name>`."""
    return {"id": name, "tenant": f"team-{name}", "sha256": sha256_of(f"hr_{name}"), **fields}


def write(path: Path, *entries: dict[str, Any]) -> None:
    path.write_text(json.dumps({"keys": entries}))


def moment(**ahead: float) -> str:
    return (datetime.now(UTC) + timedelta(**ahead)).isoformat()


@pytest.mark.parametrize("key", ["", "whatever"])
def test_an_open_ring_asks_for_no_key(key: str) -> None:
    assert ring({}, open_to_all=True).caller(key) == Caller(DEFAULT_TENANT)


def test_a_file_without_keys_is_closed_and_not_open(tmp_path: Path) -> None:
    write(tmp_path / "keys.json")
    with pytest.raises(Unauthorized):
        ring(tmp_path / "keys.json").caller("")


def test_a_key_names_its_caller_and_what_it_may() -> None:
    limited = {"scopes": ["read"], "models": ["m"], "limits": {"requestsPerMinute": 5}}
    keys = {"keys": [entry("a", policy=limited), entry("b", policy="small")], "policies": {"small": {"models": ["s"]}}}
    callers = ring(keys)
    first, second = callers.caller("hr_a"), callers.caller("hr_b")
    assert (first.tenant, first.key_id, first.models_of(["m", "s"])) == ("team-a", "a", ["m"])
    assert first.account is not None
    assert (first.account.name, first.account.limits.requests_per_minute) == ("team-a:a", 5)
    assert (second.models_of(["m", "s"]), second.account) == (["s"], None)


@pytest.mark.parametrize("key", ["", "hr_", "hr_aa", "HR_A", "ÿ", "hr_a\0"])
def test_a_key_that_the_ring_does_not_have_is_unauthorized(key: str) -> None:
    with pytest.raises(Unauthorized):
        ring({"keys": [entry("a")]}).caller(key)


def test_an_expired_key_says_that_it_has_expired() -> None:
    keys = ring({"keys": [entry("a", expires=moment(seconds=-1)), entry("b", expires=moment(hours=1))]})
    with pytest.raises(Unauthorized, match="has expired"):
        keys.caller("hr_a")
    assert keys.caller("hr_b").tenant == "team-b"


def test_a_rotated_key_holds_until_its_own_end() -> None:
    def rotated(name: str, **ahead: float) -> dict[str, Any]:
        return entry(name, replaced={"sha256": sha256_of(f"hr_{name}_before"), "expires": moment(**ahead)})

    keys = ring({"keys": [rotated("a", hours=1), rotated("b", seconds=-1)]})
    assert keys.caller("hr_a") == keys.caller("hr_a_before")
    with pytest.raises(Unauthorized):
        keys.caller("hr_b_before")


def test_keys_in_plain_text_are_read_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    keys = ring(PLAIN)
    assert [keys.caller(key).tenant for key in PLAIN] == ["a", "b"]
    (record,) = caplog.records
    assert "headrace keys create" in record.message
    assert "key-of-a" not in record.message


async def test_a_changed_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    write(path, entry("a"), entry("b"))
    keys = ring(path)
    write(path, entry("b"), entry("c"))
    await keys.look()
    assert [keys.caller(key).tenant for key in ("hr_b", "hr_c")] == ["team-b", "team-c"]
    with pytest.raises(Unauthorized):
        keys.caller("hr_a")


async def test_a_secret_s_mount_whose_link_moves_is_followed(tmp_path: Path) -> None:
    """As the kubelet does it: the file is a link through `..data`, which is replaced at once."""
    for version, name in (("..1", "a"), ("..2", "b")):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "api-keys.json", entry(name))
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "api-keys.json").symlink_to("..data/api-keys.json")
    keys = ring(tmp_path / "api-keys.json")
    assert keys.caller("hr_a")
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    await keys.look()
    assert keys.caller("hr_b")
    with pytest.raises(Unauthorized):
        keys.caller("hr_a")


@pytest.mark.parametrize(
    "text", ['{"keys": [{"id": "a", "sesame": 1}]}', '{"sesame', '{"keys": 5}', None, "[" * 100_000, " " * 9_000_000]
)
async def test_a_file_that_cannot_be_used_leaves_the_keys_that_were_read_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str | None
) -> None:
    path, unusable = tmp_path / "keys.json", gauge()
    write(path, entry("a"))
    keys = ring(path, unusable)
    path.unlink() if text is None else path.write_text(text)
    for _ in range(2):
        await keys.look()
        assert keys.caller("hr_a").tenant == "team-a"
        assert value_of(unusable) == 1
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "those that were read before hold" in record.message
    assert "sesame" not in caplog.text
    write(path, entry("b"))
    await keys.look()
    assert keys.caller("hr_b")
    assert value_of(unusable) == 0


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ([entry("a"), entry("a", sha256=sha256_of("x"))], "two keys have the id or the hash of 'a'"),
        ([entry("a"), entry("b", sha256=sha256_of("hr_a"))], "two keys have the id or the hash of 'b'"),
        ([entry("a", policy="none")], "which is not in `policies`"),
        ([entry("a", tenant="x:y")], "without ':'"),
        ([entry("a", expires="2026-01-01T00:00:00")], "keys.0.expires"),
        ([entry("a", policy={"scopes": ["root"]})], "keys.0.policy"),
        ([entry("a", policy={"limits": {"requestsPerMinute": 0}})], "keys.0.policy"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(keys: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ring({"keys": keys})


def test_no_key_stands_in_what_a_ring_or_a_caller_prints() -> None:
    keys = ring({"keys": [entry("a")]})
    text = f"{keys!r} {keys.caller('hr_a')!r}"
    assert "hr_a" not in text
    assert sha256_of("hr_a") not in text
