"""As much of a Kubernetes API server as Helm asks before it renders: its version, its kinds, and objects to look up."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import yaml
from helm_python import Config

from charts.tests.rendering import Json

NAMESPACE = "ml"
NOT_FOUND = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
BUILT_IN = {"v1": ["Secret", "Service"], "apps/v1": ["Deployment"]}


@dataclass
class ApiServer:
    """What it knows; to be filled before Helm asks."""

    helm: Config
    kinds: dict[str, list[str]] = field(default_factory=lambda: {name: list(all_) for name, all_ in BUILT_IN.items()})
    """By group and version."""
    stored: dict[str, Json] = field(default_factory=dict)
    """`secrets/NAME`, `services/NAME` -> the object in `NAMESPACE`."""

    def answer(self, path: str) -> Json | None:
        """None: not found."""
        if path == "/version":
            return {"major": "1", "minor": "35", "gitVersion": "v1.35.0"}
        if path == "/api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "/apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in self._groups()]}
        version = path.removeprefix("/apis/").removeprefix("/api/")
        if version in self.kinds:
            resources = [_resource(kind) for kind in self.kinds[version]]
            return {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
        return self.stored.get(path.removeprefix(f"/api/v1/namespaces/{NAMESPACE}/"))

    def _groups(self) -> list[str]:
        return [version for version in self.kinds if "/" in version]


def _group(version: str) -> Json:
    one = {"groupVersion": version, "version": version.rpartition("/")[2]}
    return {"name": version.partition("/")[0], "versions": [one], "preferredVersion": one}


def _resource(kind: str) -> Json:
    return {
        "name": f"{kind.lower()}s",
        "singularName": kind.lower(),
        "namespaced": True,
        "kind": kind,
        "verbs": ["get", "list", "create"],
    }


@contextmanager
def api_server() -> Iterator[ApiServer]:
    """A running one, and Helm that talks to it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Requests)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "c",
    }
    with Config(kubeconfig_content=yaml.safe_dump(kubeconfig), namespace=NAMESPACE) as helm:
        known = ApiServer(helm)
        server.RequestHandlerClass = type("Requests", (_Requests,), {"known": known})
        yield known
    server.shutdown()
    server.server_close()
    thread.join(5)


class _Requests(BaseHTTPRequestHandler):
    known: ApiServer

    def do_GET(self) -> None:
        found = self.known.answer(self.path.partition("?")[0])
        text = json.dumps(found or NOT_FOUND).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
