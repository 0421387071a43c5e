"""Target 5: tokens from the worker's write to the client's socket, through one API process."""

from functools import partial

from bench.delivery import Delivery, deliver
from bench.experiments import Scale
from bench.interleave import interleaved
from bench.measures import Metrics, percentile
from bench.results_file import Result


async def delivery(scale: Scale) -> Result:
    """500 streams of 10 tokens/s, 500 of 50 tokens/s, and 2,000 open streams of 1 token/s."""
    result = Result("delivery", "python -m bench run delivery")
    seconds = 12 * scale.size if scale.size >= 1 else 5
    arms = {
        "500 streams x 10/s": Delivery(streams=500, rate=10, seconds=seconds),
        "2000 streams x 1/s": Delivery(streams=2000, rate=1, lean=True, seconds=seconds),
    }
    if scale.size >= 1:
        arms["500 streams x 50/s"] = Delivery(streams=500, rate=50, lean=True, seconds=seconds)
    found = await interleaved(
        {name: partial(_repetition, measured) for name, measured in arms.items()},
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


async def _repetition(measured: Delivery, number: int) -> Metrics:
    return await deliver(measured)
