"""The API's settings."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from api.tenants.identity_provider import ProviderSettings
from api.tenants.key_file import as_key_file, read_key_file
from shared.celery_app import LONGEST_TASK_SECONDS
from shared.settings import SharedSettings
from shared.store.limits import Rate
from shared.wire.chat import MAX_TOOLS, Tool


def _json_or_file(value: Any) -> Any:
    """JSON text as it is, anything else as the path of a file that holds the JSON (a mounted Secret or ConfigMap)."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text and text[0] not in "{[":
        try:
            text = Path(text).read_text(encoding="utf-8")
        except OSError as error:
            raise ValueError(f"is neither JSON nor a readable file: {error.strerror}") from None
    try:
        return json.loads(text) if text else None
    except ValueError as error:
        raise ValueError(f"is not valid JSON: {error}") from None


def _json_or_path(value: Any) -> Any:
    """JSON text of an object as it is, anything else as the path of a file, which is read again and again."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text[:1] == "[":
        raise ValueError('must be a JSON object: {"keys": […]}, or the path of a file')
    return _json_or_file(text) if text[:1] == "{" else Path(text)


def _names(value: Any) -> Any:
    """Names separated by commas, or a JSON list of them."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [name.strip() for name in value.split(",") if name.strip()]
    return _json_or_file(value)


class Settings(SharedSettings):
    """Read once in `api.server` from `HEADRACE_*` environment variables."""

    # A refused value may be a key: it must not stand in the error. Charts set what the user left out to nothing.
    model_config = SettingsConfigDict(hide_input_in_errors=True, env_ignore_empty=True)

    host: str = "127.0.0.1"
    """Address to listen on; `0.0.0.0` in a container."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """TCP port of `/rpc` and `/stream`; 0 takes a free one."""
    internal_port: Annotated[int, Field(ge=0, le=65535)] = 8001
    """TCP port of `/healthz`, `/readyz`, `/metrics` and `/internal/*`, which no Ingress exposes; 0 takes a free one."""
    shutdown_seconds: Annotated[int, Field(ge=1)] = 10
    """Seconds that open requests and streams get after SIGTERM."""

    models: Annotated[
        tuple[Annotated[str, Field(pattern=r"^[\w.:/-]{1,128}$")], ...],
        Field(min_length=1),
        NoDecode,
        BeforeValidator(_names),
    ] = ("smollm2-135m-instruct",)
    """Names of the models that tasks are accepted for; comma-separated or a JSON list."""
    default_model: str | None = None
    """Model of requests that name none; the first of `models` when unset."""
    tool_catalogue: Annotated[
        tuple[Tool, ...], Field(max_length=MAX_TOOLS), NoDecode, BeforeValidator(_json_or_file)
    ] = ()
    """What `tool_list` answers: a JSON list of tools in OpenAI's form, or the path of a file with it."""

    api_keys: Annotated[
        Path | dict[str, Any], Field(repr=False, default_factory=dict), NoDecode, BeforeValidator(_json_or_path)
    ]
    """Path of the file of API keys, which `headrace keys` writes and which is followed while the server runs; or its
    JSON. Empty: no key is asked for, and everybody is one tenant."""
    open: bool = True
    """Whether the server may be open to everybody where no API keys are configured; `false`: it does not start then."""

    oidc_issuer: str = ""
    """An OpenID Connect issuer whose tokens are taken in place of API keys; its `iss`. Empty: none."""
    oidc_audience: str = ""
    """What those tokens must have as their `aud`."""
    oidc_jwks_url: Annotated[str, Field(pattern=r"^$|^https://|^http://(127\.0\.0\.1|localhost)[:/]")] = ""
    """Where the issuer publishes its signing keys; `https`, or this machine."""
    oidc_tenant_claim: Annotated[str, Field(min_length=1)] = "tenant"
    """Claim of such a token that names its tenant."""
    oidc_policy_claim: str = ""
    """Claim that names one of the `policies` in the file of the API keys. Empty, or no such claim in a token: the
    policy `default` of that file; where it has none, everything but `admin`, without limits."""

    capacity_selector: str = ""
    """Label selector of the workers' Deployments in this pod's namespace; what the cluster does about a model without a
    ready worker is then told to waiting clients. Empty: the cluster is not asked."""

    default_timeout_seconds: Annotated[float, Field(gt=0, le=LONGEST_TASK_SECONDS)] = 600.0
    """Deadline of a task that names none, in seconds from acceptance."""
    max_timeout_seconds: Annotated[float, Field(gt=0, le=LONGEST_TASK_SECONDS)] = 3600.0
    """Largest `timeoutSeconds` that a client may ask for, in seconds."""

    max_body_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    """Longest request body, in bytes."""
    body_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds within which a request's body must have arrived."""
    max_batch: Annotated[int, Field(ge=1)] = 100
    """Most members of one JSON-RPC batch."""
    batch_concurrency: Annotated[int, Field(ge=1)] = 16
    """Members of one batch that run at the same time."""

    max_conversation_bytes: Annotated[int, Field(ge=1024)] = 4 * 1024 * 1024
    """Most text of one stored conversation, in bytes."""
    max_tenant_conversations: Annotated[int, Field(ge=1)] = 100_000
    """Most conversations that are kept for one tenant, stored responses too; a new one more is refused."""
    response_seconds: Annotated[float, Field(gt=0)] = 24 * 3600.0
    """How long a response that was stored can be gone on from with `previous_response_id`."""

    max_waiting: Annotated[int, Field(ge=0)] = 1000
    """Most waiting tasks of one model; more are refused."""
    max_tenant_tasks: Annotated[int, Field(ge=1)] = 1000
    """Most unfinished tasks of one tenant."""
    max_key_streams: Annotated[int, Field(ge=1)] = 10_000
    """Most streams that one API key has open at one replica, where its policy says nothing else."""
    max_stream_seconds: Annotated[float, Field(ge=0)] = 3600.0
    """Seconds after which a stream that can be resumed is closed, a tenth more or less, so that connections spread over
    new replicas; 0: never."""
    tenant_rate: Annotated[str, Field(pattern=r"^$|^[1-9]\d*/(second|minute|hour|day)$")] = ""
    """Most tasks that are accepted per tenant, for example `600/minute`; empty for no bound."""
    memory_threshold: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of Redis's `maxmemory` above which new work is refused."""
    publish_timeout: Annotated[float, Field(gt=0)] = 1.0
    """Seconds that the sending of a further message for a task may take; the first one is sent as it is accepted."""

    chat_page: bool = True
    """Whether `/` is the chat page; off, there is nothing."""
    cors_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_names)] = ()
    """Origins whose pages may call the API from a browser, comma-separated or a JSON list; `*` for any."""
    comment_seconds: Annotated[float, Field(gt=0)] = 10.0
    """Seconds of silence on a stream after which a comment keeps proxies from closing the connection."""
    send_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds after which a client that takes nothing of what is sent to it is cut off."""
    resume_window_seconds: Annotated[float, Field(gt=0)] = 15.0
    """Seconds without any reader after which a task that asked for `cancelOnDisconnect` is cancelled."""

    loop_prevention: bool = True
    """Whether repeated tool calls are taken out of conversations and tools withheld from models that cycle."""
    loop_max_repeats: Annotated[int, Field(ge=1)] = 2
    """Tool rounds in a row that may bring nothing new."""
    loop_max_tool_rounds: Annotated[int, Field(ge=1)] = 8
    """Tool rounds since the last user message after which the model must answer."""

    @field_validator("api_keys")
    @classmethod
    def _keys_can_be_used(cls, keys: Path | dict[str, Any]) -> Path | dict[str, Any]:
        read_key_file(keys) if isinstance(keys, Path) else as_key_file(keys)
        return keys

    @model_validator(mode="after")
    def _not_open_by_mistake(self) -> "Settings":
        if self.open_to_all and not self.open:
            raise ValueError("HEADRACE_OPEN is false, but HEADRACE_API_KEYS names no API keys: nobody could call")
        oidc = (self.oidc_issuer, self.oidc_audience, self.oidc_jwks_url)
        if any(oidc) and not all(oidc):
            raise ValueError("HEADRACE_OIDC_ISSUER, HEADRACE_OIDC_AUDIENCE and HEADRACE_OIDC_JWKS_URL need each other")
        return self

    @model_validator(mode="after")
    def _default_model_is_served(self) -> "Settings":
        if self.default_model is not None and self.default_model not in self.models:
            raise ValueError(f"default_model {self.default_model!r} is not one of models: {', '.join(self.models)}")
        return self

    @property
    def open_to_all(self) -> bool:
        """Whether no key is asked for."""
        return not self.api_keys and not self.oidc_issuer

    @property
    def provider(self) -> ProviderSettings | None:
        """The identity provider; None where there is none."""
        if not self.oidc_issuer:
            return None
        return ProviderSettings(
            self.oidc_issuer, self.oidc_audience, self.oidc_jwks_url, self.oidc_tenant_claim, self.oidc_policy_claim
        )

    @property
    def rate(self) -> Rate | None:
        """`tenant_rate` in numbers."""
        if not self.tenant_rate:
            return None
        tasks, _, unit = self.tenant_rate.partition("/")
        return Rate(int(tasks), {"second": 1, "minute": 60, "hour": 3600, "day": 86400}[unit])
