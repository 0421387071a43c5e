"""Conversations on two workers with the real model: what later turns find in the prefix caches."""

import asyncio
import json
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.dialects import HeadraceDialect
from bench.experiments import Scale
from bench.http_connection import HttpConnection
from bench.interleave import interleaved
from bench.keys import key_file
from bench.load import HttpClients
from bench.measures import Metrics, Timeline, percentile, ratio
from bench.results_file import Result
from bench.servers import Server, headrace
from bench.trace import WORDS, Turn
from shared.wire.task_view import TaskView

TURNS = 4
FIRST_WORDS, LATER_WORDS, ANSWER_TOKENS = 1350, 30, 16
"""Some 1,500 tokens, then some 40."""
AT_ONCE = 8
"""Conversations that are open at the same time; which of them goes on next is drawn."""
SLOTS = 32
USERS = 4
KV_GIB = 4.0
THREADS = {"HEADRACE_THREADS": "1"}
TENANTS = [f"turn{number}" for number in range(TURNS)]


async def warmth(scale: Scale) -> Result:
    """One worker on both cores, two on one each, and two that know nothing of where a prompt is warm."""
    result = Result("warmth", "python -m bench run warmth")
    conversations = scale.count(40, 8)
    two: dict[str, Any] = {"workers": 2, "worker_cpus": ({0}, {1}), "env": THREADS}
    arms: dict[str, Callable[[int], Any]] = {
        "1 worker": partial(_measure, conversations, {}, ["one"] * TURNS),
        "2 workers": partial(_measure, conversations, two, ["one"] * TURNS),
        # Digests are a tenant's own: turns of different tenants have none in common, and caches do not know tenants.
        "2 workers, by the order alone": partial(_measure, conversations, two, TENANTS),
    }
    found = await interleaved(arms, 1)
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    one, warm, blind = found.values()
    result.add_ratio("cached share of later turns' prompts, 2 workers over 1", ratio(warm, one, "cached_share"), 0.9)
    result.add_ratio("the same by the order alone", ratio(blind, one, "cached_share"))
    for p in (50, 95):
        name = f"later_first_token_ms_p{p}"
        result.add_ratio(
            f"later turns' first token, p{p}, 2 workers over 1", ratio(warm, one, name), 1.2, at_least=False
        )
        result.add_ratio(f"the same by the order alone, p{p}", ratio(blind, one, name), at_least=False)
    return result


async def _measure(conversations: int, options: dict[str, Any], tenants: list[str], number: int) -> Metrics:
    env = {"HEADRACE_API_KEYS": key_file({name: name for name in {*tenants}}), "HEADRACE_KV_MEMORY_GIB": str(KV_GIB)}
    async with headrace(slots=SLOTS, **{**options, "env": {**options.get("env", {}), **env}}) as server:
        random_ = random.Random(number)
        waiting = [_Chat(server, str(at), random_) for at in range(conversations)]
        clients = {name: HttpClients(HeadraceDialect(), server.port, key=name) for name in tenants}
        running: list[_Chat] = []

        async def user() -> None:
            while waiting or running:
                # Another conversation begins, or one of those that are open goes on.
                if waiting and (len(running) < AT_ONCE):
                    running.append(waiting.pop())
                if not running:
                    return
                chat = running.pop(random_.randrange(len(running)))
                tenant = tenants[chat.turn]
                await chat.say(clients[tenant], tenant)
                if chat.turn < TURNS:
                    running.append(chat)
                done.append(chat)

        done: list[_Chat] = []
        await asyncio.gather(*(user() for _ in range(USERS)))
        for each in clients.values():
            each.close()
    chats = {id(chat): chat for chat in done}.values()
    # An answer may be empty.
    first = [t.first_token for chat in chats for t in chat.timelines[:1] if t.arrivals]
    later = [t.first_token for chat in chats for t in chat.timelines[1:] if t.arrivals]
    return {
        "cached_share": round(sum(c.cached for c in chats) / sum(c.prompt for c in chats), 3),
        **{f"first_first_token_ms_p{p}": round(1000 * percentile(first, p)) for p in (50, 95)},
        **{f"later_first_token_ms_p{p}": round(1000 * percentile(later, p)) for p in (50, 95)},
    }


class _Chat:
    """One conversation."""

    def __init__(self, server: Server, name: str, random_: random.Random) -> None:
        self._server = server
        self._random = random_
        self._messages: list[dict[str, Any]] = []
        self._name = name
        self.turn = 0
        self.timelines: list[Timeline] = []
        self.prompt = self.cached = 0
        """Tokens of the later turns' prompts."""

    async def say(self, clients: HttpClients, key: str) -> None:
        words = self._random.choices(WORDS, k=LATER_WORDS if self.turn else FIRST_WORDS)
        self._messages.append({"role": "user", "content": f"{self._name}: {' '.join(words)}"})
        timeline = await clients.ask(Turn(self._messages, ANSWER_TOKENS))
        assert not timeline.error, timeline.error
        self.timelines.append(timeline)
        connection = HttpConnection("127.0.0.1", self._server.port, key)
        call = {"jsonrpc": "2.0", "id": 1, "method": "get_message", "params": {"taskId": timeline.task_id}}
        _, reply = await connection.request("POST", "/rpc", json.dumps(call).encode())
        connection.close()
        result = TaskView.model_validate(json.loads(reply)["result"]).result
        assert result is not None, reply
        if self.turn:
            self.prompt += result.usage.prompt_tokens
            self.cached += result.usage.cached_tokens
        self._messages.append({"role": "assistant", "content": result.text or "Yes."})
        self.turn += 1
