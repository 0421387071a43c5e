"""Makes values.schema.json: types from the defaults in values.yaml, the exceptions below, settings from the code."""

import re
from typing import Any

from api.settings import Settings
from shared.settings import SharedSettings
from worker.settings import WorkerSettings

Schema = dict[str, Any]

CHART_SETS = {
    "host", "port", "internal_port", "internal_host", "shutdown_seconds", "models", "default_model", "tool_catalogue",
    "api_keys", "redis_url", "redis_sentinel_service", "installation", "capacity_selector", "model_name",
    "model_source", "model_revision", "offline", "cache_dir", "dtype", "quantization", "context_length", "slots",
    "worker_name", "engine", "tensor_parallel", "drain_seconds", "engine_start_seconds", "deletion_cost", "task_events",
}  # fmt: skip
"""Settings that follow from other values and cannot be written a second time."""

MAP: Schema = {"type": "object"}
STRINGS: Schema = {"type": "object", "additionalProperties": {"type": ["string", "null"]}}
AMOUNTS: Schema = {"type": ["object", "null"], "additionalProperties": {"type": ["string", "number", "null"]}}
RESOURCES: Schema = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"requests": AMOUNTS, "limits": AMOUNTS, "claims": {"type": "array"}},
}
"""The amounts themselves are judged by the templates, in a sentence that a pattern could not say."""


def _either(*types: str, **more: Any) -> Schema:
    return {"type": list(types), **more}


def _one_of(*values: str) -> Schema:
    return {"enum": list(values)}


EXCEPTIONS: dict[str, Schema] = {
    # By path; `*.name` is that name anywhere.
    "image.pullPolicy": _one_of("Always", "IfNotPresent", "Never"),
    "image.pullSecrets": {"type": "array", "items": {"type": "string"}},
    "api.service.type": _one_of("ClusterIP", "NodePort", "LoadBalancer"),
    "api.tools": {"type": "array", "items": MAP},
    "api.autoscaling.targetCpuPercent": _either("integer", "null", minimum=1),
    "api.autoscaling.targetOpenStreams": _either("integer", "null", minimum=1),
    "api.shutdownSeconds": {"type": "integer", "minimum": 1},
    "*.maxUnavailable": _either("integer", "string"),
    "*.topologySpreadConstraints": _either("array", "null"),
    "*.strategy": _either("object", "null"),
    "*.nodeSelector": STRINGS,
    "*.annotations": STRINGS,
    "*.labels": STRINGS,
    "*.podAnnotations": STRINGS,
    "*.podLabels": STRINGS,
    "*.resources": RESOURCES,
    "ingress.controller": _one_of(
        "", "ingress-nginx", "nginx-inc", "traefik", "haproxy", "haproxy-ingress", "contour", "openshift", "alb"
    ),
    "ingress.idleTimeoutSeconds": {"type": "integer", "minimum": 30},
    "modelDefaults.source": {
        "type": "string",
        "pattern": r"^$|^hf://[^/]+/[^/]+$|^pvc://[^/]+|^image://.+|^package://[^/]+/.+|^/.+|^scripted:",
    },
    "modelDefaults.engine": _one_of("transformers", "vllm"),
    "modelDefaults.contextLength": _either("integer", "null", minimum=16),
    "modelDefaults.slots": {"type": "integer", "minimum": 1, "maximum": 1024},
    "modelDefaults.gpu.count": {"type": "integer", "minimum": 0},
    "modelDefaults.scaling.min": {"type": "integer", "minimum": 0},
    "modelDefaults.scaling.max": _either("integer", "null", minimum=0),
    "modelDefaults.scaling.targetInFlight": {"type": "integer", "minimum": 1},
    "modelDefaults.cache.accessModes": {
        "type": "array",
        "minItems": 1,
        "items": _one_of("ReadWriteOnce", "ReadWriteMany", "ReadWriteOncePod"),
    },
    "modelDefaults.startup.budgetSeconds": {"type": "integer", "minimum": 10},
    "modelDefaults.drainSeconds": {"type": "integer", "minimum": 0},
    "redis.external.url": {"type": "string", "pattern": "^$|^(redis|rediss|sentinel)://"},
    "redis.bundled.password": {"type": "string", "pattern": "^[A-Za-z0-9]*$"},
    "auth.apiKeys": {"type": "object", "additionalProperties": {"type": "string"}},
    "auth.keys": {"type": "array", "items": {"type": "object", "required": ["id", "tenant", "sha256"]}},
    "autoscaling.provider": _one_of("none", "keda", "hpa"),
    "telemetry.otlp.protocol": _one_of("grpc", "http/protobuf"),
    "telemetry.samplingRatio": {"type": "number", "minimum": 0, "maximum": 1},
    "telemetry.serviceMonitor.labels": STRINGS,
    "telemetry.flower.tenants": {"type": "array", "items": {"type": "string"}},
    "networkPolicy.redisPorts": {"type": "array", "items": {"type": "integer"}},
    "podSecurityContext": MAP,
    "securityContext": MAP,
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
}


def values_schema(values: dict[str, Any], renamed: list[dict[str, str]]) -> Schema:
    """The schema of values.yaml. Keys of earlier versions pass, so that the templates can say their new names."""
    root = _object("", values)
    fields = root["properties"]
    fields["global"] = MAP  # Helm's own, where the chart is a dependency
    fields["settings"] = _settings(SharedSettings)
    fields["api"]["properties"]["settings"] = _settings(Settings)
    fields["modelDefaults"]["properties"]["settings"] = _settings(WorkerSettings)
    fields["modelDefaults"]["properties"]["dtype"] = _field(WorkerSettings, "dtype")
    fields["modelDefaults"]["properties"]["quantization"] = _field(WorkerSettings, "quantization")
    model = fields["modelDefaults"]
    # What `--set models.qwen2.5.source=…` makes of a name with a dot; the templates refuse it in words, and such names.
    model["patternProperties"] = {"^[0-9]": {}}
    fields["modelDefaults"] = {"$ref": "#/definitions/model"}
    fields["models"] = {
        "type": "object",
        "additionalProperties": {"anyOf": [{"$ref": "#/definitions/model"}, {"type": "null"}]},
    }
    profile = _object("gpuProfiles.default", values["gpuProfiles"]["default"])
    fields["gpuProfiles"] = {"type": "object", "additionalProperties": profile}
    for entry in renamed:
        _tolerate(root, entry["old"].split("."), model)
    return {"$schema": "http://json-schema.org/draft-07/schema#", "definitions": {"model": model}, **root}


def _object(path: str, values: dict[str, Any]) -> Schema:
    fields = {name: _value(f"{path}.{name}".lstrip("."), value) for name, value in values.items()}
    return {"type": "object", "additionalProperties": False, "properties": fields}


def _value(path: str, default: Any) -> Schema:
    exception = EXCEPTIONS.get(path) or EXCEPTIONS.get("*." + path.rpartition(".")[2])
    if exception is not None:
        return exception
    match default:
        case dict():
            return _object(path, default) if default else MAP
        case list():
            return {"type": "array"}
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 0}
        case float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
    raise ValueError(f"{path}: a value that is null by default needs its type in EXCEPTIONS")


def _settings(settings: type[SharedSettings]) -> Schema:
    """A map of the settings that the chart leaves to its user, in camelCase."""
    names = sorted(set(settings.model_fields) - CHART_SETS)
    fields = {_camel(name): _field(settings, name) for name in names}
    return {"type": "object", "additionalProperties": False, "properties": fields}


def _field(settings: type[SharedSettings], name: str) -> Schema:
    described: Schema = settings.model_json_schema()["properties"][name]
    return {key: value for key, value in described.items() if key not in ("title", "description")}


def _camel(name: str) -> str:
    return re.sub(r"_([a-z0-9])", lambda match: match[1].upper(), name)


def _tolerate(schema: Schema, path: list[str], model: Schema) -> None:
    first, *rest = path
    if path[:2] == ["models", "*"]:
        schema, (first, *rest) = model, path[2:]
    if rest:
        inner = schema["properties"].setdefault(first, {"type": "object", "properties": {}})
        _tolerate(inner, rest, model)
    else:
        schema["properties"][first] = {}
