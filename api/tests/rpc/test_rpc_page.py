"""The calls of docs/rpc.md, one after the other, get the replies that stand behind them."""

import json
import re
from pathlib import Path
from typing import Any

import httpx

PAGE = (Path(__file__).parents[3] / "docs" / "rpc.md").read_text()


async def test_every_call_of_the_page_gets_the_reply_behind_it(http: httpx.AsyncClient) -> None:
    task = ""
    compared = 0
    examples = [json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)]
    for call, behind in zip(examples, [*examples[1:], {}], strict=True):
        if "method" not in call:
            continue
        reply = (await http.post("/rpc", json=with_task(call, task))).json()
        assert "error" not in reply, reply
        if call["method"] == "create_message":
            task = reply["result"]["taskId"]
            behind = json.loads(json.dumps(behind).replace("\\u2026", task))
        if "method" not in behind and behind:
            assert reply == with_task(behind, task)
            compared += 1
    assert compared == 5


def with_task(example: dict[str, Any], task: str) -> Any:
    return json.loads(json.dumps(example).replace("$TASK", task))
