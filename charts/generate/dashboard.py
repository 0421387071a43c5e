"""Makes files/dashboards/headrace.json, the Grafana dashboard: one row per question that an operator asks."""

from typing import Any

Json = dict[str, Any]

WIDTH = 24
HEIGHT = 8
COLUMNS = 3

API = 'namespace=~"$namespace"'
MODEL = 'namespace=~"$namespace",model=~"$model"'


def _quantile(metric: str, quantile: float, by: str = "model") -> str:
    buckets = f"sum by (le, {by}) (rate({metric}_bucket{{{MODEL}}}[$__rate_interval]))"
    return f"histogram_quantile({quantile}, {buckets})"


def _rate(metric: str, by: str = "model", where: str = MODEL) -> str:
    return f"sum by ({by}) (rate({metric}{{{where}}}[$__rate_interval]))"


def _now(metric: str, by: str = "model", over: str = "max", where: str = MODEL) -> str:
    return f"{over} by ({by}) ({metric}{{{where}}})"


def _two(metric: str) -> list[tuple[str, str]]:
    return [(_quantile(metric, 0.5), "{{model}} median"), (_quantile(metric, 0.95), "{{model}} 95 %")]


Panel = tuple[str, str, list[tuple[str, str]]]
"""Title, unit, and pairs of query and legend."""

ROWS: dict[str, list[Panel]] = {
    "Where does a request spend its time?": [
        ("Acceptance to first token", "s", _two("headrace_task_first_token_seconds")),
        ("Waiting for a worker", "s", _two("headrace_task_queue_seconds")),
        ("Admission to first token", "s", _two("headrace_task_admitted_first_token_seconds")),
        ("Per output token", "s", _two("headrace_task_output_token_seconds")),
        ("Whole task", "s", _two("headrace_task_seconds")),
        ("Engine step", "s", _two("headrace_worker_step_seconds")),
    ],
    "Which model is short of workers?": [
        (
            "Tasks",
            "short",
            [
                (_now("headrace_tasks_waiting"), "{{model}} waiting"),
                (_now("headrace_tasks_running"), "{{model}} running"),
            ],
        ),
        ("Ready workers", "short", [(_now("headrace_workers_ready"), "{{model}}")]),
        (
            "Batch occupancy",
            "percentunit",
            [
                (
                    f"{_now('headrace_worker_batch_size', over='sum')} / "
                    f"{_now('headrace_worker_batch_slots', over='sum')}",
                    "{{model}}",
                )
            ],
        ),
        ("KV cache in use", "percentunit", [(_now("headrace_worker_kv_cache_used_ratio"), "{{model}} fullest worker")]),
        (
            "Held back for memory",
            "short",
            [
                (_now("headrace_worker_engine_waiting", over="sum"), "{{model}} waiting in the engine"),
                (_rate("headrace_worker_preemptions_total"), "{{model}} preemptions/s"),
            ],
        ),
        ("Model load time", "s", [(_now("headrace_worker_model_load_seconds"), "{{model}} slowest worker")]),
    ],
    "Who is next, and where?": [
        (
            "Share of tokens, by client",
            "percentunit",
            [
                (
                    f"topk(10, {_rate('headrace_tenant_tokens_total', 'tenant', API)} / ignoring(tenant) group_left "
                    f"sum(rate(headrace_tenant_tokens_total{{{API}}}[$__rate_interval])))",
                    "{{tenant}}",
                )
            ],
        ),
        (
            "Tasks taken, by class",
            "reqps",
            [(_rate("headrace_worker_claims_total", "model, priority"), "{{model}} {{priority}}")],
        ),
        (
            "Tasks whose prompt was warm, by where they went",
            "reqps",
            [(_rate("headrace_worker_claims_total", "model, warm"), "{{model}} {{warm}}")],
        ),
    ],
    "What does a token cost?": [
        (
            "Tokens per second",
            "short",
            [
                (_rate("headrace_prompt_tokens_total"), "{{model}} prompt"),
                (_rate("headrace_worker_tokens_total"), "{{model}} generated"),
            ],
        ),
        (
            "Prompt tokens from the prefix cache",
            "percentunit",
            [
                (
                    f"{_rate('headrace_cached_prompt_tokens_total')} / {_rate('headrace_prompt_tokens_total')}",
                    "{{model}}",
                )
            ],
        ),
        (
            "Price of a million generated tokens",
            "currencyUSD",
            [
                (
                    f"$price * {_now('headrace_workers_ready')} / "
                    f"(3600 * {_rate('headrace_worker_tokens_total')}) * 1000000",
                    "{{model}}",
                )
            ],
        ),
        (
            "GPU utilisation",
            "percentunit",
            [(_now("headrace_gpu_utilization_ratio", "instance, gpu", "avg", API), "{{instance}} {{gpu}}")],
        ),
        (
            "GPU memory",
            "percentunit",
            [
                (
                    f"{_now('headrace_gpu_memory_used_bytes', 'instance, gpu', 'max', API)} / "
                    f"{_now('headrace_gpu_memory_total_bytes', 'instance, gpu', 'max', API)}",
                    "{{instance}} {{gpu}}",
                )
            ],
        ),
    ],
    "Which client is noisy?": [
        (
            "Tasks accepted, by client",
            "reqps",
            [(f"topk(10, {_rate('headrace_tenant_tasks_accepted_total', 'tenant', API)})", "{{tenant}}")],
        ),
        (
            "Tasks refused, by client",
            "reqps",
            [(f"topk(10, {_rate('headrace_tenant_tasks_refused_total', 'tenant', API)})", "{{tenant}}")],
        ),
        (
            "Tokens per second, by client",
            "short",
            [(f"topk(10, {_rate('headrace_tenant_tokens_total', 'tenant', API)})", "{{tenant}}")],
        ),
    ],
    "Is something wrong?": [
        ("Tasks ended", "reqps", [(_rate("headrace_tasks_ended_total", "state, reason"), "{{state}} {{reason}}")]),
        ("Refused", "reqps", [(_rate("headrace_tasks_refused_total", "reason", API), "{{reason}}")]),
        (
            "Attempts that another worker goes on with",
            "short",
            [
                (_rate("headrace_lease_takeovers_total"), "{{model}} worker lost"),
                (_rate("headrace_worker_attempts_total", "model, outcome"), "{{model}} {{outcome}}"),
                (_rate("headrace_worker_engine_restarts_total"), "{{model}} engine restarts"),
            ],
        ),
        ("Janitor", "short", [(_rate("headrace_janitor_actions_total", "action", API), "{{action}}")]),
        (
            "Streams",
            "short",
            [
                (_now("headrace_open_streams", "namespace", "sum", API), "open"),
                (_rate("headrace_stream_resumes_total", "namespace", API), "resumed/s"),
                (_rate("headrace_slow_readers_total", "outcome", API), "slow, {{outcome}}/s"),
            ],
        ),
        (
            "Redis memory",
            "bytes",
            [
                (_now("headrace_redis_memory_used_bytes", "namespace", "max", API), "used"),
                (_now("headrace_redis_memory_max_bytes", "namespace", "max", API), "limit"),
            ],
        ),
        ("Redis round trip", "s", [(_now("headrace_redis_ping_seconds", "instance", "max", API), "{{instance}}")]),
        (
            "Broker",
            "short",
            [
                (_rate("headrace_worker_broker_reconnects_total"), "{{model}} reconnects/s"),
                (_rate("headrace_publish_failures_total", "namespace", API), "messages not sent/s"),
            ],
        ),
        (
            "Time without asking for work",
            "s",
            [(_now("headrace_worker_consumption_stalled_seconds"), "{{model}} worst worker")],
        ),
    ],
}


def dashboard() -> Json:
    """The dashboard as Grafana imports it."""
    panels: list[Json] = []
    top = 0
    for row, members in ROWS.items():
        panels.append(
            _place({"type": "row", "title": row, "collapsed": False, "panels": []}, len(panels), 0, top, WIDTH, 1)
        )
        top += 1
        for number, member in enumerate(members):
            left = number % COLUMNS * (WIDTH // COLUMNS)
            down = top + number // COLUMNS * HEIGHT
            panels.append(_place(_panel(*member), len(panels), left, down, WIDTH // COLUMNS, HEIGHT))
        top += -(-len(members) // COLUMNS) * HEIGHT
    return {
        "uid": "headrace",
        "title": "Headrace",
        "tags": ["headrace", "llm"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": panels,
    }


def _place(panel: Json, number: int, left: int, top: int, width: int, height: int) -> Json:
    return {"id": number + 1, "gridPos": {"x": left, "y": top, "w": width, "h": height}, **panel}


def _panel(title: str, unit: str, queries: list[tuple[str, str]]) -> Json:
    source = {"type": "prometheus", "uid": "${datasource}"}
    return {
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {"refId": chr(65 + number), "datasource": source, "expr": query, "legendFormat": legend, "exemplar": True}
            for number, (query, legend) in enumerate(queries)
        ],
    }


def _variables() -> list[Json]:
    source = {"type": "prometheus", "uid": "${datasource}"}

    def label(name: str, query: str) -> Json:
        return {
            "name": name, "type": "query", "datasource": source, "query": query, "refresh": 2, "multi": True,
            "includeAll": True, "allValue": ".*", "current": {"text": "All", "value": "$__all"},
        }  # fmt: skip

    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus"},
        label("namespace", "label_values(headrace_tasks_waiting, namespace)"),
        label("model", 'label_values(headrace_tasks_waiting{namespace=~"$namespace"}, model)'),
        {
            "name": "price", "label": "Price of a worker per hour", "type": "textbox", "query": "2.5",
            "current": {"text": "2.5", "value": "2.5"},
        },
    ]  # fmt: skip
