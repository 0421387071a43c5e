"""`python -m api` as a process."""

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

import httpx

from testbed import services
from testbed.waiting import wait_until

CREATE = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": {"message": "hi"}}


class ApiProcess:
    """One API process; its log is read as it comes."""

    def __init__(self, **settings: str) -> None:
        env = {**os.environ, **services.settings(**settings)}
        self.popen = subprocess.Popen(services.command("api"), env=env, stderr=subprocess.PIPE, text=True)
        self.log = ""
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            with self._grown:
                self.log += line
                self._grown.notify_all()

    def url(self, what: str) -> str:
        """The address that the process says it listens on."""
        with self._grown:
            found = self._grown.wait_for(lambda: re.search(rf"{what}: (http://[\w.:]+)", self.log), 30)
            assert found is not None, self.log
            return found[1]

    def wait(self) -> int:
        code = self.popen.wait(30)
        self._reader.join(10)
        assert self.popen.stderr is not None
        self.popen.stderr.close()
        return code

    def stop(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.wait()


StartProcess = Callable[..., ApiProcess]


def eventually(url: str, status: int) -> httpx.Response:
    """The reply, as soon as it has the status."""

    def answered() -> httpx.Response | None:
        with suppress(httpx.TransportError):
            reply = httpx.get(url)
            return reply if reply.status_code == status else None
        return None

    return wait_until(answered, 15, lambda: f"{url} answers with {status}")
