"""A namespace per session, and in it installations of the chart; what they need of the cluster is said in README.md."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helm_python import Config

from .cluster import Cluster
from .release import Json, Release, merged
from .scripted_values import SCRIPT, SCRIPTED, python_image

HERE = Path(__file__).parent
ROOT = HERE.parent


def pytest_configure(config: pytest.Config) -> None:
    # Local clusters have certificates that nobody signed; the kubeconfig decides whether that matters.
    config.addinivalue_line("filterwarnings", "ignore::urllib3.exceptions.InsecureRequestWarning")
    for name in ("KUBECONFIG", "K8S_TEST_VALUES"):  # the tests run in an empty folder
        if paths := os.environ.get(name):
            os.environ[name] = os.pathsep.join(map(os.path.abspath, paths.split(os.pathsep)))


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if not os.environ.get("KUBECONFIG"):
        pytest.exit("KUBECONFIG names no cluster: see k8s-tests/README.md", returncode=2)
    cluster = Cluster(f"headrace-test-{secrets.token_hex(3)}")
    cluster.make()
    request.config.stash[CLUSTER] = cluster
    yield cluster
    if os.environ.get("K8S_TEST_KEEP"):
        return
    cluster.remove()


CLUSTER = pytest.StashKey[Cluster]()
REMARKS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def remarks(request: pytest.FixtureRequest) -> list[str]:
    """What the report should say of this cluster."""
    return request.config.stash.setdefault(REMARKS, [])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: "pytest.CallInfo[None]") -> Any:
    report = yield
    cluster = item.config.stash.get(CLUSTER, None)
    if report.failed and cluster:
        try:
            report.sections.append(("cluster", cluster.describe()))
        except Exception as error:  # the test's own failure is the news
            report.sections.append(("cluster", repr(error)))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    terminalreporter.section("cluster")
    for remark in config.stash.get(REMARKS, []):
        terminalreporter.line(remark)


@pytest.fixture(scope="session")
def helm(cluster: Cluster) -> Iterator[Config]:
    """Real Helm, at work in the session's namespace."""
    with Config(namespace=cluster.namespace) as config:
        yield config


@pytest.fixture(scope="session")
def images() -> Json:
    """Values that name the images under test; the chart's own where the environment names none."""
    named = {name: os.environ.get(f"K8S_TEST_{name}_IMAGE", "") for name in ("API", "WORKER", "REDIS")}
    values: Json = {"api": {"image": named["API"]}, "modelDefaults": {"image": named["WORKER"]}}
    if named["REDIS"]:
        values["redis"] = {"bundled": {"image": named["REDIS"]}}
    return values


@pytest.fixture(scope="session")
def base_values(cluster: Cluster, images: Json, remarks: list[str]) -> Json:
    """What this cluster needs: images, storage, and the file that K8S_TEST_VALUES names."""
    remarks.append(f"Kubernetes {cluster.version}, namespace {cluster.namespace}, images {images}")
    path = os.environ.get("K8S_TEST_VALUES")
    own: Json = yaml.safe_load(Path(path).read_text()) if path else {}
    if own:
        remarks.append(f"values of {path}: {own}")
    storage: Json = {}
    if not own.get("redis", {}).get("bundled", {}).get("persistence") and not cluster.provisions_volumes():
        remarks.append("no default StorageClass: the bundled Valkey ran without a volume, but for the tests of volumes")
        storage = {"redis": {"bundled": {"persistence": {"enabled": False}}}}
    return merged(storage, images, own)


@pytest.fixture(scope="session")
def storage_class(cluster: Cluster) -> str:
    """Class of the volumes that tests ask for; empty: the cluster's default."""
    named = os.environ.get("K8S_TEST_STORAGE_CLASS", "")
    if not named and not cluster.provisions_volumes():
        pytest.skip("no volumes: this cluster has no default StorageClass, and K8S_TEST_STORAGE_CLASS names none")
    return named


@pytest.fixture(scope="session")
def otlp(cluster: Cluster, base_values: Json) -> str:
    """Name of a pod that receives traces and logs each span as a line of JSON."""
    receiver = (ROOT / "testbed" / "otlp_receiver.py").read_text()
    files = {"otlp_pod.py": (HERE / "otlp_pod.py").read_text(), "otlp_receiver.py": receiver}
    cluster.run_python("otlp", *python_image(base_values), files)
    return "otlp"


@pytest.fixture(scope="session")
def installed(cluster: Cluster, helm: Config, base_values: Json, otlp: str) -> Iterator[Release]:
    release = Release(cluster, helm, "headrace-script", merged(base_values, SCRIPTED))
    release.install()
    yield release
    release.uninstall()


@pytest.fixture
def scripted(installed: Release) -> Release:
    """Two API replicas and two workers of the scripted model, all of them ready."""
    installed.until_ready(SCRIPT)
    return installed
