"""Real-looking chats on a schedule: what users see when load is what it is, not what the server can take."""

import contextlib
from functools import partial

from bench.experiments import Scale
from bench.interleave import interleaved, observed
from bench.load import closed_loop, open_loop
from bench.measures import Bound, Metrics, ratio
from bench.results_file import Result
from bench.servers import Server, headrace, transformers_serve
from bench.trace import chats as chat_trace
from bench.trace import stories

BOUND = Bound(first_token=3.0, per_token=0.25)
PER_SECOND = 1.0


async def chats(scale: Scale) -> Result:
    """An open loop of chats with tool turns, through Headrace and through `transformers serve`."""
    result = Result("chats", "python -m bench run chats")
    requests = scale.count(40, 12)
    async with contextlib.AsyncExitStack() as stack:
        servers = {"headrace": await stack.enter_async_context(headrace())}
        if scale.size >= 1:
            servers["transformers serve"] = await stack.enter_async_context(transformers_serve())
        for server in servers.values():
            await closed_loop(server.ask, stories("warm", 2, 8), 1)
        found = await interleaved(
            {name: partial(_measure, server, requests) for name, server in servers.items()},
            scale.repetitions,
        )
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    if "transformers serve" in found:
        for metric, what in (("tokens_per_s", "tokens/s"), ("good_requests_per_s", "good requests/s")):
            if min(each[metric] for each in found["transformers serve"]) > 0:
                over = ratio(found["headrace"], found["transformers serve"], metric)
                result.add_ratio(f"{what} over transformers serve, chats", over)
    return result


async def _measure(server: Server, requests: int, number: int) -> Metrics:
    turns = chat_trace(str(number), requests, PER_SECOND, 0.5)
    return await observed(server, lambda: open_loop(server.ask, turns), BOUND)
