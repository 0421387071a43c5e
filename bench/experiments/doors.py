"""What `/v1/chat/completions` costs beside `/rpc` and `/stream`, and a proxy that speaks the same API."""

from functools import partial

from bench.dialects import OpenAiDialect
from bench.experiments import Scale
from bench.interleave import interleaved, observed
from bench.load import HttpClients, closed_loop
from bench.measures import Metrics, percentile, ratio
from bench.results_file import Result
from bench.servers import Server, headrace, litellm, sse_starlette
from bench.trace import stories

TOKEN_MS = 20
USERS = 32
TOKENS = 100
MODEL = "smollm2-135m-instruct"


async def doors(scale: Scale) -> Result:
    """One request at a time for the first token, 32 users for the CPU; scripted engine, LiteLLM over a fake one."""
    result = Result("doors", "python -m bench run doors")
    lone, loaded = scale.count(60, 20), scale.count(96, USERS)
    async with (
        headrace(f"scripted:?token_ms={TOKEN_MS}&tokens={TOKENS}", slots=USERS) as rpc,
        sse_starlette(TOKEN_MS) as plain,
        litellm(TOKEN_MS) as proxy,
    ):
        clients = HttpClients(OpenAiDialect(MODEL), rpc.port)
        chat = Server("chat", clients.ask, rpc.pids, rpc.port)
        found = await interleaved(
            {
                "/rpc and /stream": partial(_measure, rpc, lone, loaded),
                "/v1/chat/completions": partial(_measure, chat, lone, loaded),
                "LiteLLM's upstream": partial(_measure, plain, lone, loaded),
                "LiteLLM's proxy": partial(_measure, proxy, lone, loaded),
            },
            scale.repetitions,
        )
        clients.close()
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    by_rpc, by_chat, direct, proxied = found.values()
    for p in (50, 95):
        metric = f"first_token_ms_p{p}"
        most = 2.0 if p == 50 else None
        added = _added(by_chat, by_rpc, metric)
        result.add_ratio(f"added to the first token, p{p}", added, most, at_least=False, unit="ms")
        result.add_ratio(f"added by LiteLLM, p{p}", _added(proxied, direct, metric), unit="ms", at_least=False)
    api, server = "cpu_s_per_1000_tokens_api", "cpu_s_per_1000_tokens_server"
    result.add_ratio("API's CPU per token over /rpc's", ratio(by_chat, by_rpc, api), 1.15, at_least=False)
    both = [{api: one[server]} for one in proxied]
    result.add_ratio("LiteLLM's CPU per token over the API's", ratio(both, by_chat, api), at_least=False)
    return result


def _added(over: list[Metrics], under: list[Metrics], metric: str) -> float:
    return percentile([a[metric] - b[metric] for a, b in zip(over, under, strict=True)], 50)


async def _measure(server: Server, lone: int, loaded: int, number: int) -> Metrics:
    await closed_loop(server.ask, stories(f"warm {number}", 3, 2), 1)
    alone = await observed(server, lambda: closed_loop(server.ask, stories(f"first {number}", lone, 2), 1))
    busy = await observed(server, lambda: closed_loop(server.ask, stories(f"busy {number}", loaded, TOKENS), USERS))
    # Tokens that come at one moment go out in one piece, and this form does not say how many they are.
    counted = busy["tokens"] / (loaded * TOKENS)
    cpu = {name: round(value * counted, 4) for name, value in busy.items() if name.startswith("cpu_s_per_1000_tokens")}
    return busy | cpu | {name: value for name, value in alone.items() if name.startswith("first_token")}
