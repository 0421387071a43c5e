"""Target 10, for a machine with a GPU: a Qwen2.5-14B-shaped model with random weights through the worker's engine.

    python -m bench.experiments.gpu   # bf16, then 4-bit by bitsandbytes; about 30 minutes and 40 GB of disk
    python -m bench.experiments.gpu --layers 4 --tokens 32   # a small one, to see that it runs

Batches of 1, 64 and 128, through the engine process, through the whole path, and through transformers' own manager.
Writes bench/results/gpu.json.
"""

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.engines import direct_engine, raw_manager
from bench.environments import CACHE, converted_model
from bench.experiments import FULL
from bench.interleave import observed
from bench.load import closed_loop
from bench.measures import Metrics, ratio, summary
from bench.results_file import Result
from bench.servers import Server, headrace
from bench.trace import stories

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=QWEN_14B["num_hidden_layers"])
    parser.add_argument("--tokens", type=int, default=256, help="of each answer")
    parser.add_argument("--repetitions", type=int, default=FULL.repetitions)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    options = parser.parse_args()
    device = json.loads(_in_torch("import torch, json; print(json.dumps(torch.cuda.get_device_name(0)))"))
    folder = random_model(options.layers)
    weight_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    result = asyncio.run(measure(options, device, folder, weight_bytes))
    result.machine["device"] = device
    print(json.dumps([ratio_.__dict__ for ratio_ in result.ratios], indent=1))
    print(result.save())


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


async def measure(options: argparse.Namespace, device: str, folder: Path, weight_bytes: int) -> Result:
    """Engines are started one after another: two do not fit into one GPU's memory with a KV cache each."""
    result = Result("gpu", "python -m bench.experiments.gpu")
    bandwidth = next((bytes_ for name, bytes_ in BANDWIDTH.items() if name in device), None)
    for quantization in ("none", "bitsandbytes-4bit"):
        label = "bf16" if quantization == "none" else "4-bit"
        found: dict[str, list[Metrics]] = {}
        for _ in range(options.repetitions if quantization == "none" else 1):
            for arm, repetition in (await _once(options, str(folder), quantization)).items():
                found.setdefault(f"{arm}, {label}", []).append(repetition)
        for arm, repetitions in found.items():
            result.add_arm(arm, repetitions)
        for batch in options.batches:
            engine, raw = found[f"engine, batch {batch}, {label}"], found.get(f"raw manager, batch {batch}, {label}")
            path = found[f"headrace, batch {batch}, {label}"]
            if raw:
                target = 0.95 if quantization == "none" else None
                over = ratio(engine, raw, "tokens_per_s")
                result.add_ratio(f"engine's tokens/s over the raw manager, batch {batch}, {label}", over, target)
            over = ratio(path, engine, "tokens_per_s")
            result.add_ratio(f"whole path's tokens/s over the engine alone, batch {batch}, {label}", over, 0.95)
        if quantization == "none" and bandwidth and 1 in options.batches:
            step = result.arms[f"engine, batch 1, {label}"]["per_token_ms_p50"] / 1000
            # Every step reads all weights once, save the embedding's one row.
            embedding = 2 * QWEN_14B["vocab_size"] * QWEN_14B["hidden_size"]  # type: ignore[operator]  # both numbers
            share = (weight_bytes - embedding) / bandwidth / step
            result.add_ratio("decode at batch 1 over the memory bandwidth's limit, bf16", share, 0.6)
    return result


async def _once(options: argparse.Namespace, folder: str, quantization: str) -> dict[str, Metrics]:
    """One repetition of every arm."""
    slots = max(options.batches)
    found: dict[str, Metrics] = {}
    flags: dict[str, Any] = {"quantization": quantization, "cuda_graphs": True, "context_length": 4096}
    async with direct_engine(folder, slots, **flags) as server:
        for batch in options.batches:
            found[f"engine, batch {batch}"] = await _load(server, batch, options.tokens)
    env = {
        "HEADRACE_QUANTIZATION": quantization,
        "HEADRACE_CUDA_GRAPHS": "true",
        "HEADRACE_CONTEXT_LENGTH": "4096",
    }
    async with headrace(folder, slots=slots, env=env) as server:
        for batch in options.batches:
            found[f"headrace, batch {batch}"] = await _load(server, batch, options.tokens)
    if quantization == "none":
        async with raw_manager(folder) as raw:
            for batch in options.batches:
                await raw.closed_loop(stories(f"warm {batch}", batch, 8), batch)
                turns = stories(f"gpu {batch}", 2 * batch, options.tokens)
                timelines, elapsed = await raw.closed_loop(turns, batch)
                found[f"raw manager, batch {batch}"] = summary(timelines, elapsed)
    return found


async def _load(server: Server, batch: int, tokens: int) -> Metrics:
    await closed_loop(server.ask, stories(f"warm {batch}", batch, 8), batch)
    turns = stories(f"gpu {batch}", 2 * batch, tokens)
    return await observed(server, lambda: closed_loop(server.ask, turns, batch))


if __name__ == "__main__":
    main()
