"""Free ports of this machine, for servers that are started next."""

import contextlib
import itertools
import os
import socket

TEST_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
FIRST, COUNT = 20000 + 2000 * TEST_PROCESS, 2000
# Below the ports that the kernel gives to clients (from 32768), 2,000 for each process of a test run: a port that was
# free is not taken by anything else before its server listens. Two runs at once begin at different ones.
PORTS = itertools.cycle(FIRST + (37 * os.getpid() + number) % COUNT for number in range(COUNT))


def free_port() -> int:
    """A port of the loopback interface that nothing uses."""
    for port in PORTS:
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError
