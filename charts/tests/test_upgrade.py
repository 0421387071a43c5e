"""An upgrade keeps what cannot change and what must not: selectors, claims, secrets."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from helm_python import Chart, Config

from .conftest import Json, Manifests, Render

RELEASED = Path(__file__).parent / "released"
"""What each released version rendered from its values, as far as Kubernetes lets nobody change it."""


def immutable(manifests: Manifests) -> Json:
    """By kind and name: what an update of the object must not touch."""
    kept: Json = {}
    for item in manifests.of("Deployment", "StatefulSet", "PersistentVolumeClaim"):
        spec = item["spec"]
        fields = ("selector", "serviceName", "volumeClaimTemplates", "accessModes", "storageClassName")
        kept[f"{item['kind']}/{item['metadata']['name']}"] = {field: spec[field] for field in fields if field in spec}
    for item in manifests.of("RoleBinding"):
        kept[f"RoleBinding/{item['metadata']['name']}"] = item["roleRef"]
    return kept


@pytest.mark.parametrize("release", sorted(RELEASED.glob("*.json")), ids=lambda path: path.stem)
def test_an_upgrade_from_a_released_version_changes_nothing_immutable(render: Render, release: Path) -> None:
    for values, before in json.loads(release.read_text()):
        after = immutable(render(values))
        assert {name: after.get(name) for name in before} == before


def test_the_chart_version_is_in_no_selector_and_in_no_pod(manifests: Manifests) -> None:
    for item in manifests.of("Deployment", "StatefulSet"):
        assert "helm.sh/chart" not in json.dumps(item["spec"])


class Secrets(BaseHTTPRequestHandler):
    """As much of an API server as Helm's `lookup` of a Secret asks for."""

    stored: dict[str, Json]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        secret = self.stored.get(path.rpartition("/")[2])
        if path == "/api/v1":
            kind = {"name": "secrets", "singularName": "", "namespaced": True, "kind": "Secret", "verbs": ["get"]}
            self._reply(200, {"kind": "APIResourceList", "groupVersion": "v1", "resources": [kind]})
        elif path.startswith("/api/v1/namespaces/ml/secrets/") and secret:
            self._reply(200, secret)
        else:
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            self._reply(404, status)

    def _reply(self, status: int, body: Json) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def cluster() -> Iterator[tuple[Config, dict[str, Json]]]:
    """Helm's view of a cluster whose namespace `ml` has these Secrets."""
    stored: dict[str, Json] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Secrets,), {"stored": stored}))
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
    with Config(kubeconfig_content=yaml.safe_dump(kubeconfig), namespace="ml") as config:
        yield config, stored
    server.shutdown()
    server.server_close()
    thread.join(5)


def _password(config: Config, chart_path: Path, values: Json | None = None) -> str:
    with Chart.load(chart_path) as chart:
        texts = config.render(chart, values, name="headrace", namespace="ml", revision=2, is_upgrade=True)
    secret = yaml.safe_load(texts["headrace/templates/redis/secret.yaml"])
    return base64.b64decode(secret["data"]["password"]).decode()


def test_a_generated_password_survives_an_upgrade(cluster: tuple[Config, dict[str, Json]], chart_path: Path) -> None:
    config, stored = cluster
    first = _password(config, chart_path)
    assert len(first) == 32
    assert first.isalnum()
    data = {"password": base64.b64encode(first.encode()).decode()}
    stored["headrace-redis"] = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "headrace-redis", "namespace": "ml"},
        "data": data,
    }
    assert _password(config, chart_path) == first
    assert _password(config, chart_path, {"redis": {"bundled": {"password": "given"}}}) == "given"
