"""The sets of values that every test of the chart walks through."""

import yaml

from charts.generate.chart_files import CHART
from charts.tests.rendering import Json

QWEN = {"source": "hf://Qwen/Qwen2.5-14B-Instruct", "gpu": {"count": 1}}

CASES: dict[str, Json] = {
    "no values": {},
    **{path.stem: yaml.safe_load(path.read_text()) for path in sorted(CHART.glob("values-*.yaml"))},
    "two models under keda": {
        "autoscaling": {"provider": "keda"},
        "models": {
            "big": {**QWEN, "scaling": {"min": 0, "max": 4}},
            "big-2": {**QWEN, "scaling": {"min": 1, "max": 2}},
        },
    },
    "hpa": {
        "autoscaling": {"provider": "hpa"},
        "models": {"big": {**QWEN, "scaling": {"min": 1, "max": 4}}},
        "api": {"autoscaling": {"enabled": True}},
    },
    "vllm on two GPUs": {"models": {"m": {**QWEN, "engine": "vllm", "gpu": {"count": 2}}}},
    "a claim as source": {"models": {"m": {"source": "pvc://claim/folder/model"}}},
    "ingress": {
        "ingress": {
            "enabled": True,
            "className": "nginx",
            "controller": "ingress-nginx",
            "hosts": ["llm.example.com"],
            "tls": [{"secretName": "tls", "hosts": ["llm.example.com"]}],
        },
        "auth": {"apiKeys": {"secret-key": "team-a"}},
    },
    "policies around the bundled Valkey": {
        "networkPolicy": {"enabled": True},
        "telemetry": {"otlp": {"endpoint": "http://collector:4318", "protocol": "http/protobuf", "headersSecret": "o"}},
        "models": {"big": QWEN},
    },
    "sentinel": {
        "redis": {
            "external": {"url": "sentinel://:$(REDIS_PASSWORD)@a:26379;sentinel://b:26379/0", "existingSecret": "r"}
        }
    },
    "a password in the URL": {"redis": {"external": {"url": "redis://:pw@redis.example.com:6379/0"}}},
    "hashed keys": {
        "auth": {
            "keys": [{"id": "chat", "tenant": "team-a", "sha256": "0" * 64, "policy": "small"}],
            "policies": {"small": {"limits": {"requestsPerMinute": 60}}},
        },
        "helmTest": {"apiKeySecret": "chat-key"},
    },
    "existing secrets": {"redis": {"bundled": {"existingSecret": "r"}}, "auth": {"existingSecret": "keys"}},
    "nothing optional": {
        "api": {
            "capacity": {"enabled": False},
            "podDisruptionBudget": {"enabled": False},
            "serviceAccount": {"create": False},
        },
        "worker": {"deletionCost": False, "serviceAccount": {"create": False}},
        "modelDefaults": {"podDisruptionBudget": {"enabled": False}},
        "helmTest": {"enabled": False},
        "redis": {"bundled": {"persistence": {"enabled": False}}},
    },
    "everything that users add": {
        "commonLabels": {"team": "ml"},
        "commonAnnotations": {"owner": "ml"},
        "settings": {"leaseSeconds": 20, "logLevel": "DEBUG", "logLevels": {"celery": "WARNING", "shared": "INFO"}},
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: '{{ .Release.Name }}-y'}",
        ],
        **{
            component: {
                "labels": {"l": "1"},
                "annotations": {"a": "1"},
                "podLabels": {"pl": "1"},
                "podAnnotations": {"pa": "1"},
                "nodeSelector": {"n": "1"},
                "tolerations": [{"key": "t", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
                "topologySpreadConstraints": [
                    {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}
                ],
                "priorityClassName": "high",
                "runtimeClassName": "gvisor",
                "extraEnv": [{"name": "E", "value": "1"}],
                "extraEnvFrom": [{"secretRef": {"name": "s"}}],
                "extraVolumes": [{"name": "v", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
                "initContainers": [{"name": "i", "image": "busybox", "command": ["true"]}],
                "sidecars": [{"name": "s", "image": "busybox", "command": ["sleep", "inf"]}],
            }
            for component in ("api", "modelDefaults")
        },
        "models": {"a": {**QWEN, "cache": {"enabled": True, "keep": True}, "hub": {"tokenSecret": "hub"}}},
        "api": {
            "tools": [{"type": "function", "function": {"name": "now", "parameters": {"type": "object"}}}],
            "settings": {"maxWaiting": 7, "tenantRate": "600/minute", "loopPrevention": False},
            "extraEnv": [{"name": "E", "value": "1"}],
        },
        "telemetry": {"scrapeAnnotations": True, "resourceAttributes": {"deployment.environment.name": "test"}},
    },
}
