"""Whose key it is."""

import pytest

from api.auth import DEFAULT_TENANT, Caller, KeyRing
from api.errors import Unauthorized

KEYS = {"key-of-a": "a", "key-of-b": "b"}


@pytest.mark.parametrize("key", ["", "whatever"])
def test_a_ring_without_keys_asks_for_none(key: str) -> None:
    assert KeyRing({}).caller(key) == Caller(DEFAULT_TENANT)


def test_a_key_of_the_ring_names_its_caller() -> None:
    ring = KeyRing(KEYS)
    assert [ring.caller(key).tenant for key in KEYS] == ["a", "b"]


@pytest.mark.parametrize("key", ["", "key-of-", "key-of-aa", "KEY-OF-A", "ÿ", "key-of-a\0"])
def test_a_key_that_the_ring_does_not_have_is_unauthorized(key: str) -> None:
    with pytest.raises(Unauthorized):
        KeyRing(KEYS).caller(key)
