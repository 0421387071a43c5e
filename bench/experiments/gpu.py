"""Target 10, for a machine with a GPU: a Qwen2.5-14B-shaped model with random weights through the worker's engines.

    python -m bench.experiments.gpu                 # the engine on transformers; about 30 minutes, 40 GB of disk
    python -m bench.experiments.gpu --engine vllm   # the engine on vLLM, by the Python of its environment
    python -m bench.experiments.gpu --layers 4 --tokens 32   # a small one, to see that it runs

Batches of 1, 64 and 128, through the engine process, through the whole path, and through what the engine is made of:
transformers' own manager, or `vllm serve`. Writes bench/results/gpu.json or gpu_vllm.json.
"""

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from bench.engines import direct_engine, raw_manager
from bench.environments import CACHE, converted_model
from bench.experiments import FULL
from bench.interleave import observed
from bench.load import closed_loop
from bench.measures import Metrics, ratio, summary
from bench.results_file import Result
from bench.servers import Server, headrace, vllm_server
from bench.trace import Turn, stories

QWEN_14B = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
}
BANDWIDTH = {"H200": 4.8e12, "H100 PCIe": 2.0e12, "H100": 3.35e12, "A100": 2.0e12, "L40": 0.864e12, "L4": 0.3e12}
"""Bytes per second of the device's memory by its data sheet; the first name that the device's contains."""
BATCHES = (1, 64, 128)
CONTEXT = 4096
MAKE_MODEL = """
import json, sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM, Qwen2Config

folder = Path(sys.argv[1])
shape = json.loads((folder / "shape.json").read_text())
# No answer ends early: the end-of-sequence token is one that random weights choose once in 150,000 steps.
shape = {name: value for name, value in shape.items() if name not in ("architectures", "model_type")}
config = Qwen2Config(**shape, eos_token_id=151645)
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
with torch.device("cuda"):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
model.generation_config.eos_token_id = 151645
model.save_pretrained(folder, max_shard_size="4GB")
"""

Run = Callable[[list[Turn], int], Awaitable[Metrics]]
"""A closed loop of so many users."""
Start = Callable[[], contextlib.AbstractAsyncContextManager[Run]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--layers", type=int, default=QWEN_14B["num_hidden_layers"])
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--repetitions", type=int, default=FULL.repetitions)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    parser.add_argument("--arms", nargs="+", help="some of them; default: all")
    options = parser.parse_args()
    if unknown := set(options.arms or ()) - set(arms(options.engine, "", 1)):
        parser.error(f"no arms of {options.engine}: {', '.join(sorted(unknown))}")
    device = json.loads(_in_torch("import torch, json; print(json.dumps(torch.cuda.get_device_name(0)))"))
    folder = random_model(options.layers)
    result = asyncio.run(measure(options, device, folder))
    print(json.dumps([ratio_.__dict__ for ratio_ in result.ratios], indent=1))


def _in_torch(program: str, *arguments: str) -> str:
    """Runs Python in a process of its own: what it takes of the GPU is free again afterwards."""
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def random_model(layers: int) -> Path:
    """A folder with random weights in bfloat16, made once; its tokenizer and template are the small model's."""
    folder = CACHE / f"qwen2.5-14b-shaped-{layers}"
    if not (folder / "tokenizer.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "shape.json").write_text(json.dumps(QWEN_14B | {"num_hidden_layers": layers}))
        _in_torch(MAKE_MODEL, str(folder))
        for name in ("tokenizer_config.json", "chat_template.jinja", "tokenizer.json"):
            shutil.copy(converted_model() / name, folder / name)
    return folder


def arms(engine: str, folder: str, slots: int) -> dict[str, Start]:
    """By name. Started one after another: two do not fit into one GPU's memory with a KV cache each."""
    ours = partial(_engine, folder, slots, engine=engine)
    path = partial(_path, folder, slots, engine=engine)
    if engine == "vllm":
        return {
            "engine": ours,
            "headrace": path,
            "vllm serve": partial(_vllm_serve, folder, slots),
            "engine, batch-invariant": partial(ours, env={"VLLM_BATCH_INVARIANT": "1"}),
        }
    return {
        "engine": ours,
        "headrace": path,
        "raw manager": partial(_raw, folder),
        "engine, sdpa": partial(ours, attention="sdpa"),
        "engine, 4-bit": partial(ours, quantization="bitsandbytes-4bit"),
        "headrace, 4-bit": partial(path, quantization="bitsandbytes-4bit"),
    }


COMPARED: list[tuple[str, str, float | None]] = [
    ("engine", "raw manager", 0.95),
    ("headrace", "engine", 0.95),
    ("headrace", "vllm serve", 1.0),
    ("headrace, 4-bit", "engine, 4-bit", 0.95),
    ("engine, sdpa", "engine", None),
    ("engine, batch-invariant", "engine", None),
]
"""Which is divided by which; the target."""


async def measure(options: argparse.Namespace, device: str, folder: Path) -> Result:
    """Every arm at every batch; what is found so far is saved behind each arm."""
    found: dict[str, list[Metrics]] = {}
    notes = [f"{options.layers} of the 48 layers, {options.tokens} tokens per answer"]
    chosen = arms(options.engine, str(folder), max(options.batches))
    for number in range(options.repetitions):
        for arm in options.arms or chosen:
            begin = time.perf_counter()
            try:
                async with chosen[arm]() as run:
                    start = time.perf_counter() - begin
                    for batch in options.batches:
                        await run(stories(f"warm {number} {batch}", batch, 8), batch)
                        metrics = await run(stories(f"gpu {number} {batch}", 2 * batch, options.tokens), batch)
                        metrics["start_s"] = round(start, 1)
                        found.setdefault(f"{arm}, batch {batch}", []).append(metrics)
                        print(arm, batch, metrics, flush=True)
            except Exception as error:  # the other arms can still be measured
                notes.append(f"{arm}: {type(error).__name__}: {error}")
                print(notes[-1], flush=True)
            result = _result(options, device, folder, found, notes)
            print(result.save(), flush=True)
    return result


def _result(
    options: argparse.Namespace, device: str, folder: Path, found: dict[str, list[Metrics]], notes: list[str]
) -> Result:
    name = "gpu" if options.engine == "transformers" else f"gpu_{options.engine}"
    result = Result(name, "python -m bench.experiments.gpu " + " ".join(sys.argv[1:]), notes=[*notes])
    result.machine["device"] = device
    for arm, repetitions in found.items():
        result.add_arm(arm, repetitions)
    for over, under, target in COMPARED:
        for batch in options.batches:
            above, below = found.get(f"{over}, batch {batch}"), found.get(f"{under}, batch {batch}")
            if above and below and len(above) == len(below):
                value = ratio(above, below, "tokens_per_s")
                result.add_ratio(f"tokens/s of {over} over {under}, batch {batch}", value, target)
    bandwidth = next((bytes_ for name, bytes_ in BANDWIDTH.items() if name in device), None)
    if bandwidth and "engine, batch 1" in result.arms:
        # Every step reads all weights once, save the embedding's one row.
        embedding = 2 * QWEN_14B["vocab_size"] * QWEN_14B["hidden_size"]  # type: ignore[operator]  # both numbers
        weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
        step = result.arms["engine, batch 1"]["per_token_ms_p50"] / 1000
        share = (weights - embedding) / bandwidth / step
        result.add_ratio("decode at batch 1 over the memory bandwidth's limit", share, 0.6)
    return result


def _served(server: Server) -> Run:
    return lambda turns, users: observed(server, lambda: closed_loop(server.ask, turns, users))


@contextlib.asynccontextmanager
async def _engine(folder: str, slots: int, env: dict[str, str] | None = None, **options: Any) -> AsyncIterator[Run]:
    with mock.patch.dict(os.environ, env or {}):  # which the engine's process inherits
        async with direct_engine(folder, slots, context_length=CONTEXT, **options) as server:
            yield _served(server)


@contextlib.asynccontextmanager
async def _path(folder: str, slots: int, **options: Any) -> AsyncIterator[Run]:
    env = {f"HEADRACE_{name.upper()}": str(value) for name, value in {"context_length": CONTEXT, **options}.items()}
    async with headrace(folder, slots=slots, env=env) as server:
        yield _served(server)


@contextlib.asynccontextmanager
async def _raw(folder: str) -> AsyncIterator[Run]:
    async with raw_manager(folder) as raw:

        async def run(turns: list[Turn], users: int) -> Metrics:
            return summary(*await raw.closed_loop(turns, users))

        yield run


@contextlib.asynccontextmanager
async def _vllm_serve(folder: str, slots: int) -> AsyncIterator[Run]:
    flags = ["--max-model-len", str(CONTEXT), "--max-num-seqs", str(slots), "--max-num-batched-tokens", "8192"]
    env = {"VLLM_CACHE_ROOT": str(CACHE / "vllm")}
    async with vllm_server(folder, flags, env, Path(sys.executable)) as server:
        yield _served(server)


if __name__ == "__main__":
    main()
