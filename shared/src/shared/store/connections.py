"""redis-py's connections, which tell the process's `Outage` what they meet, and fail in one way whatever answers."""

import contextlib
import logging
import os
import ssl
import weakref
from typing import Any, cast

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.client import Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool, SentinelManagedConnection
from redis.exceptions import ConnectionError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from shared.store.outage import Kind, Outage, Unusable, kind_of, kind_of_reply, told

log = logging.getLogger(__name__)


class Checked(Connection):
    """A connection to what turned out to be Redis. Whatever else happens at its start is redis-py's ConnectionError or
    TimeoutError: an HTTP server makes redis-py raise InvalidResponse, a server that sends back what it is sent makes it
    raise AttributeError or nothing at all, and loops that try again know neither.
    """

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        """redis-py's step for every new connection, of a pool or of Sentinel's."""
        if self.is_connected:
            return
        try:
            await super().connect_check_health(check_health, retry_socket_connect)
        except (ConnectionError, RedisTimeoutError) as error:
            self._failed(error)
            raise
        except Exception as error:
            log.debug("the handshake failed", exc_info=True)
            with contextlib.suppress(RedisError, OSError):
                await self.disconnect(nowait=True)
            kind = kind_of(error) or (Kind.REFUSED if isinstance(error, RedisError) else Kind.NOT_REDIS)
            failure = Unusable(kind, told(kind, str(error), (self.password, self.username)))
            self._failed(failure)
            raise failure from None
        self._came_about()

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        """redis-py's handshake; without a password it does not look at what is answered to it."""
        await super().on_connect_check_health(check_health)
        await self.send_command("PING", check_health=False)
        if await self.read_response() != b"PONG":
            raise Unusable(Kind.NOT_REDIS)

    def _failed(self, error: Exception) -> None:
        """No connection came about."""

    def _came_about(self) -> None:
        """A connection stands."""


class Reporting(Checked):
    """A connection of which the `Outage` hears: when none comes about, and when the server refuses a command."""

    def __init__(self, *, outage: Outage, **options: Any) -> None:
        self._outage = outage
        self._stands = False
        super().__init__(**options)

    def set_parser(self, parser_class: Any) -> None:
        """Listens to error replies where they are read: all others cost nothing more."""
        super().set_parser(parser_class)
        this, parse = weakref.ref(self), self._parser.parse_error

        def parse_error(reply: str) -> RedisError:
            if (connection := this()) is not None:
                connection._note_refusal(reply)
            error: RedisError = parse(reply)  # type: ignore[no-untyped-call]  # redis-py has not typed it
            # redis-py keeps it for some; in a pipeline's error it does not stand at the beginning any more.
            error.status_code = error.status_code or reply.partition(" ")[0]
            return error

        self._parser.parse_error = parse_error  # type: ignore[method-assign]

    def _note_refusal(self, reply: str) -> None:
        # What is refused in the handshake is either no harm (CLIENT SETINFO) or makes it fail.
        if self._stands and (kind := kind_of_reply("", reply)) is not None:
            self._outage.refused(kind, told(kind, reply, (self.password,)))

    async def connect_check_health(self, check_health: bool = True, retry_socket_connect: bool = True) -> None:
        if not self.is_connected:
            self._stands = False
        await super().connect_check_health(check_health, retry_socket_connect)

    def _failed(self, error: Exception) -> None:
        kind = kind_of(error) or Kind.UNREACHABLE
        detail = detail_of(error, (self.password, self.username), tls=isinstance(self, SSLConnection))
        self._outage.unconnected(kind, address_of(self.host, self.port), detail)

    def _came_about(self) -> None:
        self._stands = True
        self._outage.connected(address_of(self.host, self.port))


class ReportingOverTls(Reporting, SSLConnection):
    """The same over TLS."""


class ReportingMaster(Reporting, SentinelManagedConnection):
    """The same to the master that Sentinel names."""


REPORTING: dict[type[AbstractConnection] | None, type[Reporting]] = {None: Reporting, SSLConnection: ReportingOverTls}
"""By redis-py's class for the URL's scheme; None is its default."""


class ReportingSentinel(Sentinel):
    """Sentinels one of which must know the master. Of one that is away nobody need hear while another one answers."""

    def __init__(self, sentinels: list[Redis], outage: Outage, **options: Any) -> None:
        super().__init__([], outage=outage, **options)  # type: ignore[no-untyped-call]  # redis-py has not typed it
        self.sentinels = sentinels
        self._outage = outage

    async def discover_master(self, service_name: str) -> tuple[str, int]:
        """As redis-py's, which makes a list in a MasterNotFoundError of whatever went wrong."""
        failed: RedisError | None = None
        silent: Redis | None = None
        for number, sentinel in enumerate(self.sentinels):
            try:
                masters = cast(dict[str, dict[str, Any]], await sentinel.sentinel_masters())
            except RedisError as error:
                if failed is None:
                    failed, silent = error, sentinel
                continue
            state = masters.get(service_name)
            if state and self.check_master_state(state, service_name):
                self.sentinels[0], self.sentinels[number] = sentinel, self.sentinels[0]
                return str(state["ip"]), int(state["port"])
            failed = MasterNotFoundError(f"no master {service_name!r} is up")
            silent = sentinel
        assert failed is not None
        assert silent is not None
        options = silent.connection_pool.connection_kwargs
        where = f"{address_of(options['host'], options['port'])} (Sentinel)"
        detail = service_name if isinstance(failed, MasterNotFoundError) else detail_of(failed, (), tls=False)
        self._outage.unconnected(kind_of(failed) or Kind.REFUSED, where, detail)
        raise failed if isinstance(failed, ConnectionError | RedisTimeoutError) else ConnectionError(str(failed))


class MasterPool(SentinelConnectionPool):
    """Closes the connections to the Sentinels too."""

    async def aclose(self) -> None:
        await super().aclose()
        await self.sentinel_manager.aclose()


def address_of(host: str, port: int) -> str:
    """`host:port`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def detail_of(error: Exception, secrets: tuple[str | None, ...], *, tls: bool) -> str:
    """What more there is to say of a connection that did not come about."""
    if isinstance(error, Unusable) and error.detail:
        return error.detail
    kind = kind_of(error)
    cause = error.__cause__ or error.__context__
    match kind:
        case Kind.TLS if isinstance(cause, ssl.SSLCertVerificationError):
            return f"the certificate: {cause.verify_message}"
        case Kind.TLS if isinstance(cause, ssl.SSLError):
            return (cause.reason or type(cause).__name__).replace("_", " ").lower()
        case Kind.UNREACHABLE if isinstance(cause, OSError):
            return os.strerror(cause.errno) if cause.errno else str(cause)[:200]
        case Kind.UNREACHABLE if cause is not None:
            return type(cause).__name__
        case Kind.SILENT if tls:
            return "perhaps because it speaks no TLS, which rediss:// asks for"
        case Kind.CLOSED | Kind.NOT_REDIS if not tls:
            return "perhaps because it speaks TLS, for which the URL begins with rediss://"
        case None:
            return ""
        case _:
            return told(kind, str(error), secrets)
