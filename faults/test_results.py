"""The Celery result of a task: there for whoever waits in `AsyncResult.get`, also when its worker died over it."""

import asyncio
import json
import sys

import pytest

from testbed.stack import Stack

CLIENT = """
import json, sys
from celery import Celery
url, task_id = sys.argv[1:]
result = Celery(broker=url, backend=url).AsyncResult(task_id)
print(json.dumps([result.state, result.result]))
"""
"""Any Celery client, in a process of its own: there, a result ends before the Redis that it listens to."""


@pytest.mark.slow
async def test_a_result_is_there_when_its_stream_has_ended_whatever_becomes_of_the_worker(headrace: Stack) -> None:
    worker = await headrace.start_worker()
    history = await headrace.submit(words=100)
    await headrace.follow(history)
    worker.kill()
    assert history.state == "SUCCESS"
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, headrace.redis_url, history.task_id, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await client.communicate()
    state, result = json.loads(output)
    assert (state, result["cleaned_response_text"]) == ("SUCCESS", history.text)
