"""The arithmetic of the bench: what happened to each request, and what is said about many of them."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

Metrics = dict[str, float]
"""Name with unit -> value. Times are milliseconds."""


@dataclass(slots=True)
class Timeline:
    """What a client saw of one request. Times are seconds of one monotonic clock."""

    sent: float = 0.0
    accepted: float = 0.0
    """When the server said that it has the request; 0 where it says nothing before the answer."""
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    """Time of each piece that brought tokens, and how many tokens had come by then."""
    ended: float = 0.0
    error: str = ""
    task_id: str = ""
    token_ids: list[int] = field(default_factory=list)
    """Where the client sees them."""

    @property
    def tokens(self) -> int:
        return self.arrivals[-1][1] if self.arrivals else 0

    @property
    def first_token(self) -> float:
        """Seconds from the request to its first token."""
        return self.arrivals[0][0] - self.sent

    @property
    def per_token(self) -> float | None:
        """Seconds per token behind the first piece; None for an answer that came in one."""
        (begin, first), (end, last) = self.arrivals[0], self.arrivals[-1]
        return (end - begin) / (last - first) if last > first else None

    def gaps(self) -> list[float]:
        """Seconds between two pieces, shared among the tokens of the later one."""
        result = []
        for (before, had), (now, has) in zip(self.arrivals, self.arrivals[1:], strict=False):
            result += [(now - before) / (has - had)] * (has - had)
        return result


@dataclass(frozen=True)
class Bound:
    """What a request must keep to count as good, in seconds."""

    first_token: float
    per_token: float

    def kept_by(self, timeline: Timeline) -> bool:
        if timeline.error or not timeline.arrivals:
            return False
        return timeline.first_token <= self.first_token and (timeline.per_token or 0.0) <= self.per_token


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between the two nearest values; 0 for no values."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(name: str, seconds: Sequence[float], digits: int = 2) -> Metrics:
    """p50, p95 and p99 in milliseconds."""
    return {f"{name}_ms_p{p}": round(1000 * percentile(seconds, p), digits) for p in (50, 95, 99)}


def summary(timelines: Sequence[Timeline], elapsed: float, bound: Bound | None = None) -> Metrics:
    """Metrics of one repetition that took `elapsed` seconds."""
    answered = [timeline for timeline in timelines if timeline.arrivals and not timeline.error]
    metrics: Metrics = {
        "requests": len(timelines),
        "errors": len(timelines) - len(answered),
        "tokens": sum(timeline.tokens for timeline in answered),
        "tokens_per_s": round(sum(timeline.tokens for timeline in answered) / elapsed, 2),
        "answer_ms_p50": round(1000 * percentile([t.ended - t.sent for t in answered], 50), 1),
    }
    metrics |= spread("first_token", [timeline.first_token for timeline in answered])
    metrics |= spread("per_token", [gap for timeline in answered for gap in timeline.gaps()])
    accepted = [timeline.accepted - timeline.sent for timeline in answered if timeline.accepted]
    if accepted:
        metrics |= spread("submit", accepted)
    if bound is not None:
        metrics["good_requests_per_s"] = round(sum(map(bound.kept_by, timelines)) / elapsed, 3)
    return metrics


def medians(repetitions: Sequence[Metrics]) -> Metrics:
    """The median of each metric over the repetitions that have it."""
    names = {name: None for repetition in repetitions for name in repetition}
    return {name: statistics.median(r[name] for r in repetitions if name in r) for name in names}


def cpu_per_1000(seconds: dict[str, float], tokens: float) -> Metrics:
    """CPU seconds of each process per 1,000 tokens."""
    return {f"cpu_s_per_1000_tokens_{name}": round(1000 * used / max(tokens, 1), 4) for name, used in seconds.items()}


def ratio(over: Sequence[Metrics], under: Sequence[Metrics], metric: str) -> float:
    """Median of the ratios of repetitions that ran next to each other: what both met cancels out."""
    return statistics.median(a[metric] / b[metric] for a, b in zip(over, under, strict=True))
