"""The whole stack as a user of Redis that may do nothing but what docs/security.md says."""

import re
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError

from testbed.stack import MODEL, Stack, stack
from testbed.valkey import Valkey
from testbed.waiting import until

PAGE = Path(__file__).parents[1] / "docs" / "security.md"
PASSWORD = "pw"


def rules() -> list[str]:
    """Of the user, as the page has them."""
    block = re.search(r"```\nuser headrace (on .*?)```", PAGE.read_text(), re.DOTALL)
    assert block is not None
    return block[1].replace("PASSWORD", PASSWORD).split()


async def through_every_door(running: Stack, url: str) -> None:
    """One call of each kind that touches Redis."""
    http = running.client
    long = "hi " * 200  # of which is noted where it is warm
    message = {"model": MODEL, "messages": [{"role": "user", "content": long}], "max_tokens": 20}

    async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        reply = await http.post(url + path, json=body)
        assert reply.status_code == 200, (path, reply.text)
        answer: dict[str, Any] = reply.json()
        return answer

    for body in (message, message | {"store": False}):
        await post("/v1/chat/completions", body)
    await post("/v1/messages", message)
    await post("/v1/completions", {"model": MODEL, "prompt": "hi"})
    response = await post("/v1/responses", {"model": MODEL, "input": "hi"})
    await post("/v1/responses", {"model": MODEL, "input": "hi", "previous_response_id": response["id"]})
    assert (await http.delete(f"{url}/v1/responses/{response['id']}")).status_code == 200
    items = {"items": [{"role": "user", "content": "a"}]}
    conversation = await post("/v1/conversations", items)
    await post(f"/v1/conversations/{conversation['id']}", {"metadata": {"a": "b"}})
    await post(f"/v1/conversations/{conversation['id']}/items", items)
    assert (await http.delete(f"{url}/v1/conversations/{conversation['id']}")).status_code == 200
    await post("/tokenize", {"model": MODEL, "prompt": "hi"})


async def test_no_command_of_the_stack_is_denied_and_no_other_one_is_allowed(valkey: Valkey, tmp_path: Path) -> None:
    def admit() -> None:
        with valkey.client() as admin:
            execute: Any = admin.execute_command
            execute("ACL", "SETUSER", "headrace", "reset", *rules())

    admit()
    url = f"redis://headrace:{PASSWORD}@127.0.0.1:{valkey.port}/0"
    async with stack(url, tmp_path) as running:
        for _ in range(2):
            await running.start_api()
        await running.start_worker()
        for api in running.urls:
            await through_every_door(running, api)
        for method in ("usage", "model_list", "tool_list"):
            assert "result" in await running.rpc(method, {})
        cancelled = await running.submit(words=400)
        following = await running.until_tokens(cancelled, 3)
        assert (await running.cancel(cancelled))["cancelled"]
        await following
        taken_over = await running.submit(words=300, cancelOnDisconnect=True, idempotencyKey="i")
        following = await running.until_tokens(taken_over, 3)
        running.workers[0].kill()
        await running.start_worker()
        await following
        assert taken_over.state == "SUCCESS"
        for method in ("get_message", "stream_token"):
            assert "result" in await running.rpc(method, {"taskId": taken_over.task_id})

        valkey.stop()
        valkey.start()
        admit()
        again = await until_answered(running)
        assert again == "SUCCESS"

        with valkey.client() as admin:
            assert denied(admin) == []
        with Redis(port=valkey.port, username="headrace", password=PASSWORD) as user:
            for command in ("KEYS *", "SCAN 0", "FLUSHALL", "CONFIG GET *", "GET other", "ACL LIST", "PUBLISH other x"):
                assert refuses(user, command), command
        with valkey.client() as admin:
            assert len(denied(admin)) == 7


async def until_answered(running: Stack) -> str:
    """The state of a task that is accepted when Redis is there again, and its user known."""

    async def submitted() -> str | None:
        reply = await running.rpc("create_message", {"message": "hi"})
        return reply["result"]["taskId"] if "result" in reply else None

    task_id = await until(submitted, 30, "a task is accepted")

    async def ended() -> str | None:
        view = (await running.rpc("get_message", {"taskId": task_id}))["result"]
        return str(view["state"]) if view["state"] not in ("PENDING", "STARTED", "RETRY") else None

    return await until(ended, 30, "the task ends")


def denied(admin: Redis) -> list[str]:
    """What Redis refused for want of a right; not the logins before the user was there again."""
    entries: Any = admin.acl_log()
    return [f"{entry['context']} {entry['object']}" for entry in entries if entry["reason"] != "auth"]


def refuses(user: Redis, command: str) -> bool:
    execute: Any = user.execute_command
    try:
        execute(*command.split())
    except NoPermissionError:
        return True
    return False
