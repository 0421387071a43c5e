"""Target 5: tokens from the worker's write to the client's socket, through one API process."""

from functools import partial

from bench.delivery import arguments, deliver
from bench.experiments import Scale
from bench.interleave import interleaved
from bench.measures import Metrics, percentile
from bench.results_file import Result


async def delivery(scale: Scale) -> Result:
    """500 streams of 10 tokens/s, 500 of 50 tokens/s, and 2,000 open streams of 1 token/s."""
    result = Result("delivery", "python -m bench run delivery")
    seconds = 12 * scale.size if scale.size >= 1 else 5
    arms = {
        "500 streams x 10/s": ["--streams", "500", "--rate", "10"],
        "2000 streams x 1/s": ["--streams", "2000", "--rate", "1", "--lean"],
    }
    if scale.size >= 1:
        arms["500 streams x 50/s"] = ["--streams", "500", "--rate", "50", "--lean"]
    found = await interleaved(
        {name: partial(_repetition, [*args, "--seconds", str(seconds)]) for name, args in arms.items()},
        scale.repetitions,
    )
    for name, repetitions in found.items():
        result.add_arm(name, repetitions)
    for name, metric, most, unit in (
        ("500 streams x 10/s", "latency_ms_p50", 5.0, "ms"),
        ("500 streams x 10/s", "latency_ms_p95", 15.0, "ms"),
        ("2000 streams x 1/s", "latency_ms_p95", 60.0, "ms"),
        ("2000 streams x 1/s", "kilobytes_per_stream", 40.0, "KB"),
    ):
        value = percentile([repetition[metric] for repetition in found[name]], 50)
        result.add_ratio(f"{metric}, {name}", value, most, at_least=False, unit=unit)
    if fast := found.get("500 streams x 50/s"):
        delivered = percentile([repetition["delivered_per_second"] for repetition in fast], 50)
        result.add_ratio("delivered over offered, 500 streams x 50/s", delivered / (500 * 50), 0.98)
    return result


async def _repetition(given: list[str], number: int) -> Metrics:
    return await deliver(arguments(given))
