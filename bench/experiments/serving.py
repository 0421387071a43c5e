"""Target 6: what one server process spends per token, beside the serving stacks of the field over a fake engine."""

import asyncio
import contextlib
from collections.abc import Callable

from bench import servers
from bench.delivery import Delivery, deliver
from bench.dialects import EventsDialect
from bench.experiments import Scale
from bench.interleave import observed
from bench.load import HttpClients, closed_loop
from bench.measures import Metrics
from bench.results_file import Result
from bench.servers import Server
from bench.trace import Turn

Start = Callable[[float], contextlib.AbstractAsyncContextManager[Server]]

PEERS: dict[str, tuple[Start, int]] = {
    "FastAPI + sse-starlette": (servers.sse_starlette, 500),
    "FastAPI StreamingResponse": (servers.sse_starlette, 500),
    "BentoML": (servers.bentoml, 500),
    "Ray Serve": (servers.ray_serve, 500),
    "LitServe": (servers.litserve, 500),
    "LiteLLM proxy": (servers.litellm, 64),
}
"""How each is started, and with how many streams at once it is asked: the proxy delivers nothing at 500."""

SECONDS = 10.0
ANSWER_SECONDS = 120.0

CPU = "cpu_s_per_1000_tokens_server"


async def serving(scale: Scale) -> Result:
    """500 streams, a token per stream every 100 ms and every 20 ms; CPU of the server per 1,000 tokens."""
    result = Result("serving", "python -m bench run serving")
    peers = PEERS if scale.size >= 1 else {name: PEERS[name] for name in list(PEERS)[:1]}
    rates = (10, 50) if scale.size >= 1 else (10,)
    found: dict[str, list[Metrics]] = {}
    for number in range(scale.repetitions):
        for rate in rates:
            name = f"headrace, {rate}/s"
            seconds = SECONDS if scale.size >= 1 else 5.0
            ours = await deliver(Delivery(streams=500, rate=rate, seconds=seconds, lean=rate > 10))
            found.setdefault(name, []).append(_as_a_peer(ours))
            _say(name, number, found[name][-1])
            for peer, (start, streams) in peers.items():
                name = f"{peer}, {rate}/s"
                try:
                    metrics = await _peer(peer, start, streams, rate)
                except (RuntimeError, OSError) as error:
                    result.notes.append(f"{name}: not measured, {str(error)[-200:]}")
                    print(f"  {name}: {error}", flush=True)
                    continue
                found.setdefault(name, []).append(metrics)
                _say(name, number, metrics)
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    for rate in rates:
        for peer in peers:
            if theirs := result.arms.get(f"{peer}, {rate}/s"):
                share = result.arms[f"headrace, {rate}/s"][CPU] / theirs[CPU]
                target = 1.5 if peer == "FastAPI + sse-starlette" else 1.0 if "FastAPI" not in peer else None
                result.add_ratio(f"API CPU per token over {peer}, {rate}/s", share, target, at_least=False)
    return result


def _say(name: str, number: int, metrics: Metrics) -> None:
    print(
        f"  {name} #{number + 1}: CPU s per 1,000 tokens {metrics[CPU]}, tokens/s {metrics['tokens_per_s']}", flush=True
    )


def _as_a_peer(ours: Metrics) -> Metrics:
    names = {"delivered_per_second": "tokens_per_s", "api_cpu_seconds_per_1000_tokens": CPU}
    return {names.get(name, name): value for name, value in ours.items()}


async def _peer(peer: str, start: Start, streams: int, rate: float) -> Metrics:
    async with start(1000 / rate) as server:
        ask = server.ask
        if peer == "FastAPI StreamingResponse":
            ask = HttpClients(EventsDialect("/plain"), server.port).ask
        turns = [Turn([], int(rate * SECONDS))] * streams
        await closed_loop(ask, [Turn([], 2)] * streams, streams)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await observed(server, lambda: closed_loop(ask, turns, streams))
        except TimeoutError:
            raise RuntimeError(f"{streams} streams were not answered within {ANSWER_SECONDS:g} s") from None
