"""Parameters and results of the methods of `/rpc`, and the types inside of them."""

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from api.rpc.methods import METHODS
from docs.generate.schema_words import Schema, in_words
from shared.wire.conversation_view import ConversationDeletion, ConversationView
from shared.wire.schemas import ConversationNamed, CreateMessageParams, ModelStatus, TaskParams
from shared.wire.task_view import Cancellation, StreamToken, TaskView
from shared.wire.usage import TenantUsage, UsageParams

TABLES: dict[str, type[BaseModel]] = {
    "create_message": CreateMessageParams,
    "get_message": TaskParams,
    "result of get_message": TaskView,
    "cancel_message": TaskParams,
    "result of cancel_message": Cancellation,
    "stream_token": TaskParams,
    "result of stream_token": StreamToken,
    "usage": UsageParams,
    "result of usage": TenantUsage,
    "get_conversation": ConversationNamed,
    "result of get_conversation": ConversationView,
    "delete_conversation": ConversationNamed,
    "result of delete_conversation": ConversationDeletion,
    "model of model_list": ModelStatus,
}
"""Heading of a table -> what it describes; methods without parameters have none."""


def rpc_tables() -> dict[str, str]:
    """A table for each of TABLES, and one text with all types that they name. Raises ValueError for a method that is
    not described.
    """
    if undescribed := {name for name, method in METHODS.items() if method.parameters} - set(TABLES):
        raise ValueError(f"docs/generate/rpc.py does not describe {sorted(undescribed)}")
    _, schemas = models_json_schema([(model, "validation") for model in dict.fromkeys(TABLES.values())])
    types: dict[str, Schema] = schemas["$defs"]
    tables = {heading: _table(types[model.__name__]) for heading, model in TABLES.items()}
    own = {model.__name__ for model in TABLES.values()} | {"JsonValue"}
    sections = [_section(name, schema) for name, schema in sorted(types.items()) if name not in own]
    return tables | {"types": "\n\n".join(sections)}


def _section(name: str, schema: Schema) -> str:
    return f"### {name}\n\n{_sentence(schema)}\n\n{_table(schema)}"


def _table(schema: Schema) -> str:
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    for name, field in schema["properties"].items():
        required = name in schema.get("required", ())
        rows.append(f"| `{name}` | {in_words(field)} | {_default(field, required)} | {_sentence(field)} |")
    return "\n".join(rows)


def _default(field: Schema, required: bool) -> str:
    if required:
        return "required"
    default: Any = field.get("default")
    return "" if default is None or default == "" or default in ([], {}) else f"`{str(default).lower()}`"


def _sentence(schema: Schema) -> str:
    return " ".join(str(schema.get("description", "")).split()).replace("|", "\\|")
