"""The Lua scripts hold what they use of what they share (scripts.py)."""

import re
from importlib.resources import files

from shared.store.scripts import SHARED, joined

LUA = files("shared.store") / "lua"
UNSHARED = {"append_tokens"}


def definitions(lua: str) -> list[str]:
    return re.findall(r"^local function (\w+)", lua, flags=re.MULTILINE)


def test_a_script_is_behind_the_definitions_that_it_uses_and_no_others() -> None:
    shared = (
        "local MOST, LEAST = 2, 1 -- unused\n\nlocal function one(x)\n  local y = x\n  return y + MOST\nend\n"
        "local function other() return one(1) end\n-- other\nlocal function two() return one(1) end\n"
    )
    assert definitions(joined(shared, "-- other\nreturn two()\n")) == ["one", "two"]
    assert joined(shared, "return 1\n") == "return 1\n"
    assert joined(shared, "return LEAST\n") == "local MOST, LEAST = 2, 1 \n\nreturn LEAST\n"


def test_each_shared_function_is_used_by_a_script() -> None:
    shared = "".join((LUA / f"{name}.lua").read_text() for name in SHARED)
    own = {path.name.removesuffix(".lua"): path.read_text() for path in LUA.iterdir()}
    used = [set(definitions(joined(shared, own[name]))) for name in own.keys() - {*SHARED, *UNSHARED}]
    assert set.union(*used) >= set(definitions(shared))
