"""Every variable that the chart sets is a setting of the code, and says what the code would have said anyway."""

import json
import re
from pathlib import Path

import pytest

from api.settings import Settings
from charts.tests.cases import CASES
from charts.tests.rendering import Json, Manifests, Render, container, env
from shared.celery_app import make_celery
from shared.settings import SharedSettings
from shared.store.outage import Outage
from shared.store.redis_client import connect
from worker.settings import WorkerSettings

SETTINGS: dict[str, type[SharedSettings]] = {"api": Settings, "worker": WorkerSettings, "fetch-model": WorkerSettings}
NOT_OURS = re.compile(r"OTEL_\w+|HF_\w+|POD_NAME|REDIS_PASSWORD|E$")
"""Read by libraries, or put together into a variable of ours."""
DIFFERENT = {
    "host": "a container listens on all its addresses",
    "redis_url": "where the chart's Valkey is",
    "cache_dir": "where the chart mounts the cache",
    "worker_name": "the pod's name",
    "installation": "namespace and release",
    "default_model": "the chart always names it",
    "capacity_selector": "inside a cluster there is one to ask",
}


def _containers(manifests: Manifests) -> list[Json]:
    return [
        one
        for _, pod in manifests.pods()
        for one in [*pod["containers"], *pod.get("initContainers", [])]
        if one["name"] in SETTINGS
    ]


def test_every_variable_is_a_setting(manifests: Manifests) -> None:
    for one in _containers(manifests):
        fields = {f"HEADRACE_{name.upper()}" for name in SETTINGS[one["name"]].model_fields}
        unknown = {name for name in env(one) if name not in fields and not NOT_OURS.fullmatch(name)}
        assert not unknown, one["name"]
        names = [entry["name"] for entry in one["env"]]
        assert len(names) == len(set(names)), "a variable is set twice"


def test_every_value_is_one_that_the_code_accepts(manifests: Manifests, monkeypatch: pytest.MonkeyPatch) -> None:
    for one in _containers(manifests):
        with monkeypatch.context() as patch:
            for name, value in env(one).items():
                if isinstance(value, str) and not value.startswith("/etc/headrace/"):
                    patch.setenv(name, value)
            SETTINGS[one["name"]](_env_file=None)


def test_chart_defaults_equal_code_defaults(render: Render, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, kind in (("-api", "api"), ("worker-smollm2-135m-instruct", "worker")):
        variables = env(container(render(), "Deployment", name, kind))
        default = SETTINGS[kind](_env_file=None)
        with monkeypatch.context() as patch:
            for variable, value in variables.items():
                if isinstance(value, str):
                    patch.setenv(variable, value)
            charts = SETTINGS[kind](_env_file=None)
        differing = {field for field in type(default).model_fields if getattr(default, field) != getattr(charts, field)}
        assert differing <= set(DIFFERENT), differing


def test_settings_in_values_are_spelt_like_the_code_in_camel_case(chart_path: Path) -> None:
    schema = json.loads((chart_path / "values.schema.json").read_text())
    assert schema["properties"]["settings"]["properties"]["leaseSeconds"]["default"] == 10.0
    assert "kvMemoryGib" in schema["definitions"]["model"]["properties"]["settings"]["properties"]
    assert "redisUrl" not in schema["properties"]["settings"]["properties"]


def test_a_setting_of_a_model_reaches_its_workers_alone(render: Render) -> None:
    manifests = render(CASES["values-local"])
    worker = env(container(manifests, "Deployment", "worker-smollm2-135m-instruct", "worker"))
    assert (worker["HEADRACE_THREADS"], worker["HEADRACE_KV_MEMORY_GIB"], worker["HEADRACE_SLOTS"]) == ("2", "0.5", "8")
    assert "HEADRACE_THREADS" not in env(container(manifests, "Deployment", "-api", "api"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://:pw@headrace-redis:6379/0",
        "rediss://u:p@r.example.com:6380/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/ssl/certs/ca-certificates.crt",
        "sentinel://:pw@a:26379;sentinel://:pw@b:26379/0",
    ],
)
async def test_the_clients_understand_every_kind_of_url_that_the_chart_offers(url: str) -> None:
    settings = SharedSettings(redis_url=url, _env_file=None)
    client = connect(settings, Outage())
    celery = make_celery(settings)
    assert celery.connection_for_write().transport_cls
    await client.aclose()


def test_what_the_code_looks_for_in_the_cluster_is_what_the_chart_puts_there(render: Render) -> None:
    from api.cluster.capacity import MODEL_LABEL
    from api.cluster.pod_state import FETCHING

    manifests = render({"models": {"m": {"source": "hf://a/b", "cache": {"enabled": True}}}})
    worker = manifests.one("Deployment", "worker-m")
    assert worker["metadata"]["labels"][MODEL_LABEL] == "m"
    assert worker["spec"]["template"]["spec"]["initContainers"][0]["name"] == FETCHING
    selector = env(container(manifests, "Deployment", "-api", "api"))["HEADRACE_CAPACITY_SELECTOR"]
    pairs = dict(pair.split("=") for pair in selector.split(","))
    assert pairs.items() <= worker["metadata"]["labels"].items()
    assert pairs.items() <= worker["spec"]["template"]["metadata"]["labels"].items()
