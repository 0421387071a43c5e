"""The settings that both services share; each service's own Settings class extends this one."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.telemetry.logs import Level, LogOptions


def _pairs(value: Any) -> Any:
    """`name=value,name=value` as a dict."""
    if not isinstance(value, str):
        return value
    return dict(pair.strip().partition("=")[::2] for pair in value.split(",") if pair.strip())


ENCODE = "; in a user name or password, # / ? @ : and % must be percent-encoded (%23 %2F %3F %40 %3A %25)"


class SharedSettings(BaseSettings):
    """Read once from `HEADRACE_*` environment variables (or a `.env` file) and handed down as arguments."""

    model_config = SettingsConfigDict(
        env_prefix="HEADRACE_", env_file=".env", extra="ignore", frozen=True, use_attribute_docstrings=True
    )

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Ledger, event streams and results. `redis://`, `rediss://` (TLS), or `sentinel://host:port;sentinel://…/db`."""
    redis_sentinel_service: str = "mymaster"
    """Name of the monitored master where `redis_url` is a Sentinel URL."""
    redis_sentinel_username: str = ""
    """Of the Sentinels themselves; the user of the master stands in `redis_url`."""
    redis_sentinel_password: SecretStr = SecretStr("")
    """Of the Sentinels themselves, where they ask for one; that of the master stands in `redis_url`."""
    key_prefix: Annotated[str, Field(pattern=r"^[\w.:-]{1,64}$")] = "headrace:"
    """Stands in front of every key, so that installations can share one Redis."""
    installation: Annotated[str, Field(max_length=256)] = ""
    """Name of this installation. Its processes refuse to start on keys of another one; empty: nobody asks."""
    redis_timeout: Annotated[float, Field(gt=0)] = 5.0
    """Seconds after which a silent Redis counts as unavailable."""

    retention_seconds: Annotated[float, Field(gt=0)] = 3600.0
    """How long an ended task can still be read."""
    unstored_seconds: Annotated[float, Field(gt=0)] = 60.0
    """How long an ended task can still be read that asked, or whose key asks, not to be stored."""
    conversation_seconds: Annotated[float, Field(gt=0)] = 7 * 24 * 3600.0
    """How long a conversation is kept after its last answer."""
    lease_seconds: Annotated[float, Field(gt=0)] = 10.0
    """A worker that has not renewed its lease for this long has lost its tasks."""
    max_failures: Annotated[int, Field(ge=1)] = 3
    """Engine crashes, or losses without a token in between, after which a task is poisoned."""

    log_level: Level = "INFO"
    """Least severe log line that is written."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, JSON lines otherwise."""
    log_levels: Annotated[dict[str, Level], NoDecode, BeforeValidator(_pairs)] = {}
    """Levels of single loggers, which hold for those below them too: `celery=WARNING,shared.store=DEBUG`."""

    @field_validator("redis_url")
    @classmethod
    def _names_a_server(cls, url: SecretStr) -> SecretStr:
        """What follows is told to operators as the server's address: no part of a password may be taken for it."""
        whole = url.get_secret_value()
        for part in whole.split(";") if whole.startswith("sentinel:") else (whole,):
            try:
                split = urlsplit(part)
                _ = split.port
            except ValueError:
                raise ValueError(f"has no readable host and port{ENCODE}") from None
            if split.scheme not in ("redis", "rediss", "sentinel"):
                raise ValueError("must begin with redis://, rediss:// or sentinel://")
            if "@" in split.path + split.query + split.fragment:
                raise ValueError(f"has an @ behind its host{ENCODE}")
        return url

    @property
    def sentinel_login(self) -> dict[str, str]:
        """What the Sentinels are told, as redis-py names it."""
        login = {
            "username": self.redis_sentinel_username,
            "password": self.redis_sentinel_password.get_secret_value(),
        }
        return {name: value for name, value in login.items() if value}

    def log_options(self, **fields: str) -> LogOptions:
        """How this process logs, with `fields` on all its lines."""
        return LogOptions(self.log_level, self.log_format, self.log_levels, fields)


def wrong_settings(error: ValidationError) -> Iterator[str]:
    """A sentence for each wrong setting, by its environment variable; without the value, which may be a key."""
    for problem in error.errors(include_url=False, include_input=False):
        name = ".".join(str(part) for part in problem["loc"])
        reason = problem["msg"].removeprefix("Value error, ")
        yield f"HEADRACE_{name.upper()}: {reason}" if name else reason
