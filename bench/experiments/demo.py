"""Target 8: from `make demo` to the first token, on a machine that has run it before."""

import asyncio
import contextlib
import os
import signal
import time

from bench.environments import CHECKOUT
from bench.experiments import Scale
from bench.interleave import interleaved
from bench.measures import Metrics, percentile
from bench.results_file import Result

PROMPT = b"What is the capital of France?"
SECONDS = 300.0


async def demo(scale: Scale) -> Result:
    """Runs the command with DEMO_ONCE=1; the ports 8000 and 8001 must be free."""
    result = Result("demo", "python -m bench run demo")
    await _once(0)  # a first run may install
    found = await interleaved({"make demo": _once}, scale.repetitions)
    result.add_arm("make demo", found["make demo"])
    first = percentile([each["first_token_s"] for each in found["make demo"]], 50)
    result.add_ratio("first token after `make demo`", first, 15.0, at_least=False, unit="s")
    return result


async def _once(number: int) -> Metrics:
    begin = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        "make",
        "demo",
        cwd=CHECKOUT,
        env={**os.environ, "DEMO_ONCE": "1", "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    seen = b""
    try:
        async with asyncio.timeout(SECONDS):
            # The question is printed, then the answer as it comes.
            while not seen.rpartition(PROMPT)[1] or not seen.rpartition(PROMPT)[2].strip(b"\r\n >:"):
                piece = await process.stdout.read(1 << 16)
                if not piece:
                    raise RuntimeError(f"make demo gave no answer:\n{seen.decode(errors='replace')[-2000:]}")
                seen += piece
            first = time.perf_counter() - begin
            while await process.stdout.read(1 << 16):
                pass
            code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    return {"first_token_s": round(first, 2), "total_s": round(time.perf_counter() - begin, 2), "errors": float(code)}
