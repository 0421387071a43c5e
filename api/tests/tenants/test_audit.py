"""The log of who did what."""

import logging
from typing import Any

import pytest

from api.tenants.key_file import sha256_of
from testbed.api_app import StartApp, rpc

KEYS = {
    "keys": [
        {"id": name, "tenant": f"team-{name}", "sha256": sha256_of(f"hr_{name}"), "policy": {"scopes": scopes}}
        for name, scopes in (("a", ["ask", "read"]), ("b", ["read"]))
    ]
}


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    """Action, tenant, key, task and reason of each line, in order."""
    names = ("action", "tenant", "key_id", "task_id", "reason")
    lines = [record for record in caplog.records if record.name == "api.audit"]
    return [tuple(getattr(line, name, None) for name in names) for line in lines]


async def test_each_deed_and_each_refusal_is_a_line_with_ids_and_without_content(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.audit")
    async with start_app(api_keys=KEYS) as http:
        params = {"message": "my secret question"}
        task_id = (await rpc(http, "create_message", params, key="hr_a"))["result"]["taskId"]
        await rpc(http, "create_message", params, key="hr_b")
        await rpc(http, "get_message", {"taskId": task_id}, key="hr_a")
        await rpc(http, "get_message", {"taskId": task_id}, key="hr_b")
        await http.head(f"/stream/{task_id}", headers={"Authorization": "Bearer hr_a"})
        await rpc(http, "stream_token", {"taskId": task_id}, key="hr_a")
        await rpc(http, "cancel_message", {"taskId": task_id}, key="hr_b")
        await rpc(http, "cancel_message", {"taskId": task_id}, key="hr_a")
        await rpc(http, "usage", {"tenant": "team-a"}, key="hr_b")
    assert said(caplog) == [
        ("create", "team-a", "a", task_id, None),
        ("create", "team-b", "b", None, "Forbidden"),
        ("read", "team-a", "a", task_id, None),
        ("read", "team-b", "b", task_id, "TaskNotFound"),
        ("stream", "team-a", "a", task_id, None),
        ("stream_token", "team-a", "a", task_id, None),
        ("cancel", "team-b", "b", task_id, "Forbidden"),
        ("cancel", "team-a", "a", task_id, None),
        ("usage", "team-b", "b", None, "Forbidden"),
    ]
    assert "secret question" not in caplog.text
    assert "hr_" not in caplog.text


async def test_an_id_that_a_client_made_up_makes_no_line_of_its_own(
    start_app: StartApp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "api.audit")
    async with start_app() as http:
        await rpc(http, "get_message", {"taskId": "x\n2026-01-01 INFO api.audit: create" + "y" * 80})
    (line,) = said(caplog)
    assert "\n" not in line[3]
    assert len(line[3]) == 64
