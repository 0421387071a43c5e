"""Names of Redis keys, which Lua builds too."""

import re
from importlib.resources import files

from shared.store.keys import Keys


def test_lua_builds_no_name_that_keys_does_not_know() -> None:
    keys = Keys("p:")
    lua = "".join(path.read_text() for path in (files("shared.store") / "lua").iterdir())
    kinds = set(re.findall(r"key\('(\w+)'", lua))
    assert {getattr(keys, kind)("x") for kind in kinds} == {f"p:{kind}:{{x}}" for kind in kinds}
    plain = set(re.findall(r"prefix \.\. '(\w+)'", lua))
    assert {getattr(keys, name) for name in plain} == {f"p:{name}" for name in plain}
    assert kinds >= {"task", "events", "waiting", "running"}
    assert plain >= {"deadlines", "cancel"}


def test_names_of_a_tenant_s_own_are_not_those_of_another() -> None:
    keys = Keys("p:")
    assert keys.conversation("a", "b:c") != keys.conversation("b", "c")
    assert keys.idempotency("a", "k") != keys.conversation("a", "k")
