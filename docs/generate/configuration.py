"""Every `HEADRACE_*` setting, from the Settings classes."""

from pydantic_core import PydanticUndefined, to_json

from api.settings import Settings
from docs.generate.schema_words import in_words
from shared.settings import SharedSettings
from worker.engine_options import EngineOptions, TransformersOptions, VllmOptions
from worker.settings import WorkerSettings


def settings_tables() -> dict[str, str]:
    """Table of each process's own settings. Raises ValueError for a setting that says nothing of itself."""
    own, engine = set(SharedSettings.model_fields), set(EngineOptions.model_fields)
    transformers, vllm = (set(options.model_fields) - engine for options in (TransformersOptions, VllmOptions))
    return {
        "every process": _table(SharedSettings, own),
        "the API": _table(Settings, set(Settings.model_fields) - own),
        "a worker": _table(WorkerSettings, set(WorkerSettings.model_fields) - own - engine - transformers - vllm),
        "every engine": _table(WorkerSettings, engine),
        "the engine on transformers": _table(WorkerSettings, transformers),
        "the engine on vLLM": _table(WorkerSettings, vllm),
    }


def _table(settings: type[SharedSettings], names: set[str]) -> str:
    schemas = settings.model_json_schema()["properties"]
    rows = ["| variable | type | default | meaning |", "|---|---|---|---|"]
    for name, field in settings.model_fields.items():
        if name not in names:
            continue
        if not field.description:
            raise ValueError(f"{settings.__name__}.{name} has no docstring")
        meaning = " ".join(field.description.split()).replace("|", "\\|")
        cells = f"`HEADRACE_{name.upper()}`", in_words(schemas[name], "rpc.md"), _default(field.default), meaning
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _default(default: object) -> str:
    if default is None or default is PydanticUndefined or default in ("", (), {}):
        return ""
    value = default.get_secret_value() if hasattr(default, "get_secret_value") else default
    return f"`{to_json(value).decode().strip(chr(34))}`"
