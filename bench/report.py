"""Puts the results into docs/performance.md: a table and a plot per experiment, between the marks that name it."""

import re
from collections.abc import Sequence
from pathlib import Path

from bench.results_file import RESULTS, Ratio, Result, load

DOCUMENT = Path(__file__).parents[1] / "docs" / "performance.md"
PLOTS = DOCUMENT.parent / "performance"

COLUMNS: dict[str, Sequence[str]] = {
    "whole_path": ("tokens_per_s", "first_token_ms_p50", "first_token_ms_p95", "per_token_ms_p50", "per_token_ms_p99"),
    "replaced": ("tokens_per_s", "first_token_ms_p50", "answer_ms_p50", "per_token_ms_p50", "per_token_ms_p99"),
    "vllm": ("tokens_per_s", "good_requests_per_s", "first_token_ms_p50", "first_token_ms_p95", "per_token_ms_p50",
             "per_token_ms_p99"),
    "engines": ("tokens_per_s", "first_token_ms_p50", "per_token_ms_p50", "per_token_ms_p99", "first_ms", "second_ms"),
    "engine": ("tokens_per_s", "per_token_ms_p50", "per_token_ms_p99", "prefill_s"),
    "first_token": ("first_token_ms_p50", "first_token_ms_p95", "first_token_ms_p99", "submit_ms_p50", "submit_ms_p95"),
    "doors": ("first_token_ms_p50", "first_token_ms_p95", "per_token_ms_p99", "tokens_per_s",
              "cpu_s_per_1000_tokens_api", "cpu_s_per_1000_tokens_server", "errors"),
    "delivery": ("delivered_per_second", "latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "kilobytes_per_stream",
                 "api_cpu_seconds_per_1000_tokens", "tokens_per_chunk", "own_cpu_share"),
    "serving": ("tokens_per_s", "cpu_s_per_1000_tokens_server", "per_token_ms_p50", "per_token_ms_p99",
                "first_token_ms_p50", "memory_mib_server", "errors"),
    "prefix": ("prompt_tokens", "first_ms", "second_ms", "second_cached_tokens", "tool_ms", "tool_cached_tokens"),
    "warmth": (),
    "placement": ("cached_share", "first_token_ms_p50", "first_token_ms_p95", "most_tasks_over_mean", "tasks"),
    "fairness": ("tokens_per_s", "jain", "small_share", "small_first_token_ms_p50", "small_first_token_ms_p95",
                 "large_first_token_ms_p50", "large_first_token_ms_p95"),
    "unrelated": ("tokens_per_s", "first_token_ms_p50", "first_token_ms_p95", "submit_ms_p50"),
    "claims": ("claim_redis_us", "task_redis_us", "claim_ms_p50", "claim_ms_p95"),
    "scoring": ("alone_ms_p50", "alone_ms_p99", "per_token_ms_p50", "per_token_ms_p99", "prompt_s", "errors"),
    "chats": ("tokens_per_s", "first_token_ms_p50", "first_token_ms_p95", "per_token_ms_p50", "per_token_ms_p99",
              "good_requests_per_s", "errors"),
    "growth": ("tokens_per_s", "per_token_ms_p50", "cpu_s_per_1000_tokens_api", "cpu_s_per_1000_tokens_valkey"),
    "demo": ("first_token_s", "total_s"),
    "gpu": ("tokens_per_s", "first_token_ms_p50", "per_token_ms_p50", "per_token_ms_p99"),
    "simulate": (),
    "costs": (),
}  # fmt: skip
"""Metrics that a table shows; none named: all, one row per metric."""

PLOTTED = {
    "whole_path": ("tokens_per_s", "tokens per second"),
    "serving": ("cpu_s_per_1000_tokens_server", "server CPU seconds per 1,000 tokens"),
    "delivery": ("latency_ms_p95", "added latency, p95, ms"),
    "replaced": ("tokens_per_s", "tokens per second"),
}


def write(document: Path = DOCUMENT, results: Path = RESULTS) -> None:
    """Fills every `<!-- result: NAME -->` … `<!-- end -->` of the document; a name without a result stays as it is."""
    text = document.read_text()

    def filled(match: re.Match[str]) -> str:
        path = results / f"{match[1]}.json"
        return f"<!-- result: {match[1]} -->\n{section(load(path))}\n<!-- end -->" if path.exists() else match[0]

    document.write_text(re.sub(r"<!-- result: (\w+) -->\n.*?<!-- end -->", filled, text, flags=re.DOTALL))
    for name, (metric, label) in PLOTTED.items():
        if (path := results / f"{name}.json").exists():
            plot(load(path), metric, label, PLOTS / f"{name}.svg")


def section(result: Result) -> str:
    """Markdown: how it was taken, the targets, the medians."""
    machine = result.machine
    taken = f"`{result.command}`; "
    if result.repetitions:
        taken += f"medians of {result.repetitions} interleaved repetitions; "
    taken += f"{machine.get('device', machine.get('cpu'))}, {machine.get('cores')} cores"
    loads = [metrics["load_average"] for metrics in result.arms.values() if "load_average" in metrics]
    if loads:
        taken += f"; load average {min(loads):.3g} to {max(loads):.3g}"
    parts = [taken + "."]
    if result.ratios:
        rows = [[r.name, f"{_number(r.value)} {r.unit}".strip(), _target(r)] for r in result.ratios]
        parts.append(_table(["", "measured", "target"], rows))
    parts.append(_arms(result))
    parts += [f"- {note}" for note in result.notes]
    return "\n\n".join(parts)


def _arms(result: Result) -> str:
    columns = COLUMNS.get(result.experiment, ())
    if not columns:
        names = list(dict.fromkeys(name for metrics in result.arms.values() for name in metrics))
        arms = {arm: metrics for arm, metrics in result.arms.items() if "q50" not in metrics}
        rows = [
            [name.replace("_", " "), *(_number(metrics[name]) if name in metrics else "" for metrics in arms.values())]
            for name in names
            if any(name in metrics for metrics in arms.values())
        ]
        return _table(["", *arms], rows)
    shown = [column for column in columns if any(column in metrics for metrics in result.arms.values())]
    rows = [
        [arm, *(_number(metrics[column]) if column in metrics else "" for column in shown)]
        for arm, metrics in result.arms.items()
    ]
    return _table(["", *(column.replace("_", " ") for column in shown)], rows)


def _target(ratio: Ratio) -> str:
    if ratio.target is None:
        return ""
    sign = "at least" if ratio.at_least else "at most"
    return f"{sign} {ratio.target:g}: {'met' if ratio.met else '**missed**'}"


def _number(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def plot(result: Result, metric: str, label: str, path: Path) -> None:
    """One horizontal bar per arm."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = result.experiment
    from matplotlib import pyplot

    arms = {arm: metrics[metric] for arm, metrics in result.arms.items() if metric in metrics}
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.28 * len(arms)))
    names = list(arms)[::-1]
    colours = ["#2563eb" if "headrace" in name else "#9ca3af" for name in names]
    bars = axes.barh(names, [arms[name] for name in names], color=colours)
    axes.bar_label(bars, fmt="%.3g", padding=3, fontsize=8)
    axes.set_xlabel(label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.12)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)
