"""ASGI middleware of tests: every reply of the doors for other people's clients is judged by their own documents."""

from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from testbed.oracle import DOORS, OWN, Door, Stream


class JudgedApp:
    """An application whose replies are looked at while they go out, whichever client asks for them."""

    def __init__(self, app: ASGIApp, report: Callable[[str], object] | None = None) -> None:
        """`report` hears of each fault at once; without it they wait for `check`."""
        self.app = app
        self.faults: list[str] = []
        self._report = report or self.faults.append

    def check(self) -> None:
        """Fails where a reply was not as OpenAI or Anthropic would have sent it."""
        faults, self.faults = self.faults, []
        assert not faults, "replies that are not as their documents say:\n" + "\n".join(faults)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        door = next((door for prefix, door in DOORS.items() if path.startswith(prefix)), None)
        if scope["type"] != "http" or door is None or path.startswith(OWN):
            await self.app(scope, receive, send)
            return
        reply = _Reply(door, scope["method"], scope["path"])

        async def heard() -> Message:
            message = await receive()
            reply.gone = reply.gone or message["type"] == "http.disconnect"
            return message

        async def seen(message: Message) -> None:
            reply.take(message)
            await send(message)

        await self.app(scope, heard, seen)
        for fault in reply.faults:
            self._report(fault)


class _Reply:
    """One reply."""

    def __init__(self, door: Door, method: str, path: str) -> None:
        self._door = door
        self._method, self._path = method, path
        self._status = 0
        self._body = b""
        self._stream: Stream | None = None
        self.gone = False
        """The client has gone: how the reply ends, nobody sees."""
        self.faults: list[str] = []

    def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = {name.lower(): value for name, value in message.get("headers", [])}
            if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
                self._stream = self._door.stream(self._method, self._path)
            return
        found = [] if self.gone or self._method in ("HEAD", "OPTIONS") else list(self._judge(message))
        self.faults += [f"{self._method} {self._path} {self._status}: {fault}" for fault in found]

    def _judge(self, message: Message) -> list[str]:
        body, ends = message.get("body", b""), not message.get("more_body", False)
        if self._stream is not None:
            return [*self._stream.feed(body), *(self._stream.end() if ends else ())]
        self._body += body
        return list(self._door.whole(self._method, self._path, self._status, self._body)) if ends else []
