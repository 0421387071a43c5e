"""`kubectl` for the commands of the notes: one API, one worker and one Secret of a stack on this machine.

The environment says where they are: API_URL, WORKER_READY_URL, API_KEYS.
"""

import asyncio
import base64
import contextlib
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit


def rollout_status(deployment: str) -> None:
    """Returns when it is ready."""
    url = os.environ["WORKER_READY_URL"] if "-worker-" in deployment else f"{os.environ['API_URL']}/openapi.json"
    while True:
        with contextlib.suppress(urllib.error.URLError):
            urllib.request.urlopen(url, timeout=10)
            sys.stdout.write(f"deployment {deployment} successfully rolled out\n")
            return
        time.sleep(0.2)


async def port_forward(ports: str) -> None:
    """From a port of this machine to the API; until it is ended."""
    server = await asyncio.start_server(_forward, "127.0.0.1", int(ports.partition(":")[0]))
    await server.serve_forever()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    target = urlsplit(os.environ["API_URL"])
    there_reader, there_writer = await asyncio.open_connection(target.hostname, target.port)
    await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while chunk := await source.read(65536):
        sink.write(chunk)
        await sink.drain()
    sink.close()


match sys.argv[1:]:
    case ["-n", "ml", "rollout", "status", target]:
        rollout_status(target.removeprefix("deployment/"))
    case ["-n", "ml", "port-forward", "service/headrace-api", ports]:
        asyncio.run(port_forward(ports))
    case ["-n", "ml", "get", "secret", "headrace-api-keys", "-o", r"jsonpath={.data.api-keys\.json}"]:
        sys.stdout.write(base64.b64encode(Path(os.environ["API_KEYS"]).read_bytes()).decode())
    case unknown:
        sys.exit(f"kubectl of the tests: {unknown}")
