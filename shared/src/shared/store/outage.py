"""Why the store cannot be used: the kinds of it, and the one place that tells of them, once instead of by everybody."""

import logging
import socket
import ssl
import threading
import time
from enum import Enum

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, ConnectionError, InvalidResponse, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

log = logging.getLogger(__name__)

OVER_SECONDS = 1.0
"""Without a failed connection, before an outage is over."""
REFUSED_SECONDS = 5.0
"""Without a refusal, before a process counts as able again: its own rounds would have met the next one."""
REFUSAL_OVER_SECONDS = 60.0
"""Without a refusal, before it is told that it is over: some commands come seldom."""
REPEAT_SECONDS = 60.0
"""A store that comes and goes is told of no more often."""


class Kind(Enum):
    """What is wrong with the store, as it is told behind its address."""

    UNRESOLVED = "its name does not resolve"
    UNREACHABLE = "it cannot be reached"
    SILENT = "it does not answer in time"
    CLOSED = "it closes the connection"
    TLS = "no TLS connection to it comes about"
    NOT_REDIS = "what answers there is not Redis or Valkey"
    PASSWORD = "it refuses the user name or the password"
    NO_PASSWORD = "it asks for a password, and HEADRACE_REDIS_URL has none"
    REFUSED = "it refuses the connection"
    LOADING = "it is still loading its data"
    NO_MASTER = "no Sentinel knows a master of this name that is up"
    PERMISSION = "its ACL does not allow what Headrace needs"
    COMMAND = "it lacks a command that Headrace needs"
    CLUSTER = "it is a node of a Redis Cluster, which Headrace cannot use"
    READ_ONLY = "it is a read-only replica"
    MASTER_DOWN = "it is a replica that has lost its master"
    NO_REPLICAS = "it takes no writes, because too few of its replicas follow it"
    DISK = "it takes no writes, because it cannot save to its disk"
    FULL = "it takes no more data: maxmemory is reached"
    BUSY = "a script of somebody's keeps it busy"

    @property
    def refuses(self) -> bool:
        """True when it answers and does not do what it is asked to."""
        return self in _REFUSALS


_REFUSALS = frozenset(Kind) - {
    Kind.UNRESOLVED, Kind.UNREACHABLE, Kind.SILENT, Kind.CLOSED, Kind.TLS, Kind.NOT_REDIS, Kind.LOADING, Kind.NO_MASTER,
}  # fmt: skip

_BY_CODE = {
    "WRONGPASS": Kind.PASSWORD,
    "NOAUTH": Kind.NO_PASSWORD,
    "DENIED": Kind.REFUSED,  # protected mode
    "LOADING": Kind.LOADING,
    "NOPERM": Kind.PERMISSION,
    "MOVED": Kind.CLUSTER,
    "ASK": Kind.CLUSTER,
    "CROSSSLOT": Kind.CLUSTER,
    "CLUSTERDOWN": Kind.CLUSTER,
    "TRYAGAIN": Kind.CLUSTER,
    "READONLY": Kind.READ_ONLY,
    "MASTERDOWN": Kind.MASTER_DOWN,
    "NOREPLICAS": Kind.NO_REPLICAS,
    "MISCONF": Kind.DISK,
    "OOM": Kind.FULL,
    "BUSY": Kind.BUSY,
}
"""First words of replies that speak of the server's state and not of the key or the arguments at hand."""

_FORBIDDEN_IN_SCRIPT = ("ACL failure in script", "The user executing the script can't")
"""What a script's error says, whose code is none, where the ACL forbids a command of it; the second is Redis 6's."""

_NOT_ANSWERED = ("Bad response", "Invalid")
"""How redis-py's connection errors over answers that Redis does not give begin."""

_TELLING = (Kind.REFUSED, Kind.PERMISSION, Kind.COMMAND)
"""Kinds of which the server itself says more."""


class Unusable(ConnectionError):
    """The handshake with what answers failed in a way that redis-py has no connection error for."""

    def __init__(self, kind: Kind, detail: str = "") -> None:
        super().__init__(_sentence(kind, detail))
        self.kind = kind
        self.detail = detail


def kind_of(error: BaseException) -> Kind | None:
    """What the error says of the store; None when it speaks of one command alone."""
    if isinstance(error, Unusable):
        return error.kind
    if isinstance(error, MasterNotFoundError):
        return Kind.NO_MASTER
    if isinstance(error, InvalidResponse):
        return Kind.NOT_REDIS
    if isinstance(error, RedisError) and (kind := kind_of_reply(error.status_code or "", str(error))):
        return kind
    if isinstance(error, AuthenticationError):
        return Kind.PASSWORD
    if isinstance(error, RedisTimeoutError | TimeoutError):
        return Kind.SILENT
    if isinstance(error, ConnectionError):
        if str(error).startswith(_NOT_ANSWERED):
            return Kind.NOT_REDIS
        return Kind.REFUSED if error.status_code else _kind_of_os(error.__cause__ or error.__context__)
    return _kind_of_os(error) if isinstance(error, OSError) else None


def _kind_of_os(error: BaseException | None) -> Kind:
    match error:
        case socket.gaierror():
            return Kind.UNRESOLVED
        case ssl.SSLError():
            return Kind.TLS
        case None | ConnectionResetError() | BrokenPipeError():
            return Kind.CLOSED
        case _:
            return Kind.UNREACHABLE


def kind_of_reply(code: str, text: str) -> Kind | None:
    """As `kind_of`, of an error reply: its first word, where redis-py has taken it off, and the rest of it."""
    first, _, rest = text.partition(" ")
    kind = _BY_CODE.get(code or first)
    if kind is None and any(words in text for words in _FORBIDDEN_IN_SCRIPT):
        return Kind.PERMISSION
    if kind is None and (rest if first == "ERR" else text).startswith("unknown command"):
        return Kind.COMMAND
    return kind


def level(error: BaseException) -> int:
    """How loud a loop that goes on may be about what it met; what is wrong with the store `Outage` tells."""
    return logging.WARNING if kind_of(error) is None else logging.DEBUG


class Outage:
    """What this process knows of its store being away: one line for each kind of it, and one when it is over.

    Whoever meets it goes on trying and says nothing (`level`). All methods may be called from any thread.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._address = ""
        self._cause = ""
        self._kind: Kind | None = None
        """The newest; None while nothing is wrong."""
        self._refuses = False
        """Connections stand, commands are refused."""
        self._began = self._met = 0.0
        self._told: dict[Kind, float] = {}

    def connected(self, address: str) -> None:
        """A connection stands; whether it serves is seen by what it is asked."""
        with self._lock:
            self._address = address

    def unconnected(self, kind: Kind, address: str, detail: str = "") -> None:
        """No connection came about."""
        self._note(kind, address, detail, refuses=False)

    def refused(self, kind: Kind, detail: str = "") -> None:
        """A command met this over a connection that stands."""
        self._note(kind, self._address, detail, refuses=True)

    def _note(self, kind: Kind, address: str, detail: str, *, refuses: bool) -> None:
        with self._lock:
            now = time.monotonic()
            if self._kind is None:
                self._began = now
            self._kind, self._met, self._refuses, self._address = kind, now, refuses, address
            self._cause = f"Redis at {address} cannot be used: {_sentence(kind, detail)}"
            told_at = self._told.get(kind, float("-inf"))
            if told_at >= self._began or now - told_at < REPEAT_SECONDS:
                return
            self._told[kind] = now
            log.error("%s. This is tried again and again, and told no more until it is over.", self._cause)

    def worked(self) -> None:
        """A round of commands, writes among them, went well."""
        with self._lock:
            now = time.monotonic()
            quiet = REFUSAL_OVER_SECONDS if self._refuses else OVER_SECONDS
            if self._kind is None or now - self._met < quiet:
                return
            self._kind = None
            if any(told_at >= self._began for told_at in self._told.values()):
                log.warning("Redis at %s can be used again, after %.0f s.", self._address, self._met - self._began)

    @property
    def reason(self) -> str:
        """Why the store cannot be used now; empty when it can, as far as is known."""
        with self._lock:
            if self._kind is None or self._refuses:
                return self._refusal()
            return self._cause

    @property
    def refusal(self) -> str:
        """As `reason`, of a store that answers, but does not do what it is asked to. One without room still serves."""
        with self._lock:
            return self._refusal()

    def _refusal(self) -> str:
        recent = time.monotonic() - self._met < REFUSED_SECONDS
        return self._cause if self._refuses and recent and self._kind not in (None, Kind.FULL) else ""


def told(kind: Kind, text: str, secrets: tuple[str | None, ...] = ()) -> str:
    """What is passed on of the server's own words: nothing that it repeats of what it was sent to identify with."""
    if kind not in _TELLING:
        return ""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    # Servers repeat the arguments of a command that they do not know.
    return " ".join(text.partition(", with args")[0].split())[:200]


def _sentence(kind: Kind, detail: str) -> str:
    return f"{kind.value} ({detail})" if detail else kind.value
