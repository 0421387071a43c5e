"""`headrace keys`: what it prints and writes, and that a server reads it."""

import json
import re
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from api.tenants.key_file import Key, read_key_file, sha256_of
from headrace import cli


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "api-keys.json"
    monkeypatch.setenv("HEADRACE_API_KEYS", str(path))
    return path


def only_key(path: Path) -> Key:
    """As the server reads it."""
    (key,) = read_key_file(path).keys
    return key


def run(*arguments: str) -> None:
    """One command that succeeds."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["keys", *arguments])
    assert not ended.value.code


def failure(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that fails says."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main(["keys", *arguments])
    assert ended.value.code
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


def test_a_key_is_shown_once_and_only_its_hash_is_written(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("create", "chat", "--tenant", "team-a")
    shown = capsys.readouterr().out.strip()
    assert shown.startswith("hr_")
    assert len(shown) == 46
    assert shown not in file.read_text()
    assert only_key(file).sha256 == sha256_of(shown)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    run("list")
    assert capsys.readouterr().out == "chat: team-a\n"


def test_programs_get_json_without_a_hash(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> Any:
        run(*arguments, "-o", "json")
        return json.loads(capsys.readouterr().out)

    made = told("create", "chat", "--tenant", "team-a", "--models", "a")
    renewed = told("rotate", "chat")
    (listed,) = told("list")
    assert made["id"] == renewed["id"] == "chat"
    assert only_key(file).sha256 == sha256_of(renewed["key"])
    assert set(listed) == {"id", "tenant", "created", "policy", "replaced"}
    assert (listed["policy"], set(listed["replaced"])) == ({"models": ["a"]}, {"expires"})
    assert told("revoke", "chat") == {"id": "chat", "revoked": True}
    assert told("list") == []


def test_what_a_key_may_do_reaches_the_server(file: Path) -> None:
    options = (
        "--models a,b --scopes ask --no-store --highest-priority low --weight 2.5 "
        "--requests-per-minute 60 --tokens-per-minute 1000 "
        "--tokens-per-day 5000 --unfinished-tasks 8 --waiting-tasks 4 --open-streams 3 --expires-in 90d"
    )
    run("create", "chat", "--tenant", "team-a", *options.split())
    key = only_key(file)
    policy = read_key_file(file).policy_of(key)
    assert (policy.models, policy.scopes, policy.highest_priority, policy.weight) == (("a", "b"), ("ask",), "low", 2.5)
    assert not policy.store
    assert policy.limits.model_dump(by_alias=False) == {
        "requests_per_minute": 60, "tokens_per_minute": 1000, "tokens_per_day": 5000, "unfinished_tasks": 8,
        "waiting_tasks": 4, "open_streams": 3,
    }  # fmt: skip
    assert key.expires is not None
    assert timedelta(days=89) < key.expires - datetime.now(UTC) <= timedelta(days=90)


def test_a_rotated_key_has_a_new_secret_and_the_old_one_holds_for_a_while(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("create", "chat", "--tenant", "team-a")
    before = capsys.readouterr().out.strip()
    run("rotate", "chat", "--grace", "2h")
    after = capsys.readouterr().out.strip()
    key = only_key(file)
    assert key.replaced is not None
    assert (key.sha256, key.replaced.sha256) == (sha256_of(after), sha256_of(before))
    assert timedelta(hours=1) < key.replaced.expires - datetime.now(UTC) <= timedelta(hours=2)
    run("rotate", "chat", "--grace", "0m")
    assert only_key(file).replaced is None


def test_a_revoked_key_is_gone_and_the_others_stay(file: Path) -> None:
    for name in ("one", "two"):
        run("create", name, "--tenant", "t")
    run("revoke", "one")
    assert only_key(file).id == "two"


def test_what_others_wrote_into_the_file_stays(file: Path) -> None:
    file.write_text(json.dumps({"keys": [], "policies": {"small": {"models": ["m"]}}}))
    file.chmod(0o640)
    run("create", "chat", "--tenant", "t", "--policy", "small")
    assert read_key_file(file).policy_of(only_key(file)).models == ("m",)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "not a file of keys"),
        ("{", "not JSON"),
        ('{"key-of-a": "a"}', "plain text"),
        ('{"keys": [{"id": "chat"}]}', "needs id, tenant and sha256"),
        ({"keys": [{"id": "chat", "tenant": "t", "sha256": "0" * 64}]}, "has a key 'chat' already"),
    ],
)
def test_a_file_that_cannot_be_used_is_left_as_it_is(
    file: Path, capsys: pytest.CaptureFixture[str], content: Any, said: str
) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    file.write_text(text)
    assert said in failure(capsys, "create", "chat", "--tenant", "t")
    assert file.read_text() == text
    assert {path.name for path in file.parent.iterdir()} == {file.name, f".{file.name}.lock"}


def test_commands_at_the_same_time_lose_nothing_of_each_other(file: Path) -> None:
    command = [sys.executable, "-m", "headrace", "keys", "create", "--tenant", "t"]
    running = [subprocess.Popen([*command, f"key-{number}"], stdout=subprocess.DEVNULL) for number in range(8)]
    assert [process.wait(60) for process in running] == [0] * 8
    assert {key.id for key in read_key_file(file).keys} == {f"key-{number}" for number in range(8)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["create", "a b", "--tenant", "t"], "a key's name has"),
        (["create", "a", "--tenant", "x:y"], "a tenant's name has"),
        (["create", "a", "--tenant", "t", "--policy", "p", "--models", "m"], "--policy names"),
        (["create", "a", "--tenant", "t", "--expires-in", "soon"], "is not a number of days"),
        (["create", "a", "--tenant", "t", "--waiting-tasks", "0"], "greater than or equal to 1"),
        (["rotate", "nobody"], "has no key 'nobody'"),
        (["revoke", "nobody"], "has no key 'nobody'"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert said in failure(capsys, *arguments)
    assert not file.exists()
