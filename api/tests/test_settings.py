"""The API's settings, as the environment spells them."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from api.settings import Settings

TOOL = {"type": "function", "function": {"name": "time"}}


@pytest.mark.parametrize(
    ("text", "models"),
    [
        ("a", ("a",)),
        ("a,b", ("a", "b")),
        (" a , b,", ("a", "b")),
        ('["a", "b"]', ("a", "b")),
        ("org/a-1.5", ("org/a-1.5",)),
    ],
)
def test_models_are_a_list_with_commas_or_json(
    monkeypatch: pytest.MonkeyPatch, text: str, models: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HEADRACE_MODELS", text)
    assert Settings().models == models


@pytest.mark.parametrize("in_file", [False, True])
def test_keys_and_tools_are_json_or_the_path_of_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, in_file: bool
) -> None:
    for name, value in (("api_keys", {"k": "a"}), ("tool_catalogue", [TOOL])):
        text = json.dumps(value)
        if in_file:
            (tmp_path / name).write_text(text + "\n")
            text = str(tmp_path / name)
        monkeypatch.setenv(f"HEADRACE_{name.upper()}", text)
    settings = Settings()
    assert settings.api_keys == (tmp_path / "api_keys" if in_file else {"k": "a"})
    assert settings.tool_catalogue[0].function.name == "time"


def test_empty_settings_are_their_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEYS", "TOOL_CATALOGUE", "TENANT_RATE", "PORT", "DEFAULT_MODEL"):
        monkeypatch.setenv(f"HEADRACE_{name}", "")
    settings = Settings()
    assert (settings.api_keys, settings.tool_catalogue, settings.tenant_rate, settings.port) == ({}, (), "", 8000)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("models", ",", "at least 1 item"),
        ("models", "a b", "pattern"),
        ("default_model", "zzz", "not one of models"),
        ("api_keys", "/does/not/exist", "neither JSON nor a readable file"),
        ("api_keys", '{"sesame', "not valid JSON"),
        ("api_keys", '{"": "a"}', "key number 1"),
        ("api_keys", '{"sesame": ""}', "tenant of key number 1"),
        ("api_keys", '{"sesame": "a:b"}', "without ':'"),
        ("api_keys", '["sesame"]', "must be a JSON object"),
        ("api_keys", '{"keys": [{"id": "a", "tenant": "t", "sha256": "sesame"}]}', "keys.0.sha256"),
        ("open", "false", "names no API keys"),
        ("tool_catalogue", '[{"type": "function"}]', "Field required"),
        ("tenant_rate", "many", "pattern"),
        ("memory_threshold", "85", "less than or equal to 1"),
        ("max_timeout_seconds", "1000000", "less than or equal to 86400"),
        ("port", "70000", "less than or equal to 65535"),
    ],
)
def test_a_wrong_setting_says_what_is_wrong_and_repeats_no_secret(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(f"HEADRACE_{name.upper()}", value)
    with pytest.raises(ValidationError) as refused:
        Settings()
    assert said in str(refused.value)
    assert "sesame" not in str(refused.value)


def test_no_key_stands_in_the_settings_text() -> None:
    settings = Settings(api_keys={"sesame": "a"})
    assert "sesame" not in repr(settings) + str(settings)


def test_every_field_is_documented() -> None:
    source = Path(__file__).parents[1].joinpath("src/api/settings.py").read_text()
    lines = source[source.index("class Settings") :].splitlines()
    starts = [
        number
        for number, line in enumerate(lines)
        if line.startswith("    ") and line.strip().split(":")[0] in Settings.model_fields
    ]
    for start in starts:
        rest = "\n".join(lines[start : start + 8])
        assert '    """' in rest, lines[start]
