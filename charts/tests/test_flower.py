"""Flower: who gets in, what it needs, and what a real one shows of a real worker."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from charts.generate.chart_files import CHART
from charts.tests.rendering import Render
from testbed.ports import free_port
from testbed.stack import stack
from testbed.valkey import Valkey
from testbed.waiting import until

ON = {
    "telemetry": {"flower": {"enabled": True, "tenants": ["ops"]}},
    "auth": {"apiKeys": {"k3y": "ops", "other": "team"}},
    "networkPolicy": {"enabled": True},
}


def test_it_is_off_and_workers_send_no_events_by_default(render: Render) -> None:
    manifests = render()
    assert not [item for item in manifests.all if item["metadata"]["name"].endswith("-flower")]
    assert "HEADRACE_TASK_EVENTS" not in str(manifests.all)


def test_it_runs_as_restricted_as_the_rest_and_may_reach_redis_alone(render: Render) -> None:
    manifests = render(ON)
    pod = manifests.one("Deployment", "-flower")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert {"name": "FLOWER_TENANTS", "value": "ops"} in container["env"]
    policy = manifests.one("NetworkPolicy", "-flower")["spec"]
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 6379}
    redis = manifests.one("NetworkPolicy", "-redis")["spec"]["ingress"][0]["from"]
    assert redis[-1]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "flower"
    assert "HEADRACE_TASK_EVENTS" in str(manifests.of("Deployment"))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"telemetry": {"flower": {"enabled": True, "tenants": ["ops"]}}}, "nobody could open it"),
        ({**ON, "telemetry": {"flower": {"enabled": True}}}, "nobody could open it"),
    ],
)
def test_it_is_never_open_to_everybody(render: Render, values: dict[str, Any], reason: str) -> None:
    with pytest.raises(Exception, match=reason):
        render(values)


def test_who_may_open_it_is_in_a_secret_of_its_own(render: Render) -> None:
    manifests = render({"telemetry": {"flower": {"enabled": True, "existingSecret": "operators"}}})
    pod = manifests.one("Deployment", "-flower")["spec"]["template"]["spec"]
    assert {"secretKeyRef": {"name": "operators", "key": "basic-auth"}} in [
        entry.get("valueFrom") for entry in pod["containers"][0]["env"]
    ]
    assert "api-keys" not in str(pod)


def test_keys_in_plain_text_still_open_it(tmp_path: Path) -> None:
    keys = tmp_path / "api-keys.json"
    keys.write_text('{"k3y": "ops", "other": "team"}')
    text = (CHART / "files/flower.py").read_text().replace("/etc/headrace/auth/api-keys.json", str(keys))
    command = [sys.executable, "-c", f"{text}\nprint(basic_auth)"]
    environment = {**os.environ, "HEADRACE_REDIS_URL": "redis://r", "FLOWER_TENANTS": "ops"}
    assert (
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20).stdout == "['ops:k3y']\n"
    )


@contextlib.contextmanager
def real_flower(folder: Path, redis_url: str) -> Iterator[str]:
    """Flower with the chart's configuration; its URL."""
    shutil.copy(CHART / "files/flower.py", folder / "flower_settings.py")
    port = free_port()
    command = [sys.executable, "-m", "celery", "--config=flower_settings", "flower", f"--port={port}"]
    options = ["--address=127.0.0.1", f"--conf={folder / 'flower_settings.py'}"]
    ours = {"PYTHONPATH": str(folder), "HEADRACE_REDIS_URL": redis_url, "FLOWER_BASIC_AUTH_OF_SECRET": "ops:k3y"}
    with (folder / "flower.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, *options], env={**os.environ, **ours}, cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(10)


async def test_a_real_one_shows_workers_and_tasks_to_operators_and_answers_to_nobody(
    valkey: Valkey, tmp_path: Path
) -> None:
    async with stack(valkey.url, tmp_path, HEADRACE_TASK_EVENTS="true") as running:
        with real_flower(tmp_path, valkey.url) as url:
            ops, team = ("ops", "k3y"), ("team", "other")

            async def up() -> bool:
                with contextlib.suppress(httpx.HTTPError):
                    return (await running.client.get(f"{url}/healthcheck")).status_code == 200
                return False

            await asyncio.gather(running.start_api(), running.start_worker(), until(up, 30, "Flower is up"))
            history = await running.run(words=5)
            assert [(await running.client.get(url, auth=auth)).status_code for auth in (None, team)] == [401, 401]

            async def seen() -> bool:
                tasks = (await running.client.get(f"{url}/api/tasks", auth=ops)).json()
                return history.task_id in tasks and tasks[history.task_id]["state"] == "SUCCESS"

            await until(seen, 15, "Flower has heard of the task")
            tasks = (await running.client.get(f"{url}/api/tasks", auth=ops)).text
            workers = (await running.client.get(f"{url}/workers", params={"json": "1"}, auth=ops)).json()["data"]
    assert history.text
    assert not any(word in tasks for word in history.text.split())
    assert [(worker["hostname"], worker["status"]) for worker in workers] == [("fake@worker0", True)]
