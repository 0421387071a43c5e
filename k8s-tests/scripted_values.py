"""Values of an installation whose engines need no model, and the image of pods that run a script beside it."""

import yaml
from helm_python import Chart

from .release import CHART, Json

SCRIPT = "script"
WANTS_GPUS = "wants-gpus"
SMALL = {"requests": {"cpu": "50m", "memory": "128Mi"}}
SCRIPTED: Json = {
    "api": {"replicas": 2, "resources": SMALL, "shutdownSeconds": 3, "preStopSeconds": 2},
    # A kubelet gives even a pod that is deleted at once two seconds: it must die in its drain, or it hands over.
    "modelDefaults": {"resources": SMALL, "drainSeconds": 10},
    "models": {
        SCRIPT: {"source": "scripted:?token_ms=50", "scaling": {"min": 2}},
        # More than any node has.
        WANTS_GPUS: {"source": "scripted:", "gpu": {"count": 999}},
    },
    "gpuProfiles": {"default": {"resources": SMALL}},
    "defaultModel": SCRIPT,
    "redis": {"bundled": {"resources": SMALL, "persistence": {"enabled": False}}},
    "telemetry": {"otlp": {"endpoint": "http://otlp:4318", "protocol": "http/protobuf"}},
}
"""An engine without a model, so that answers are known in advance; little of everything else."""


def python_image(values: Json, part: str = "api") -> tuple[str, str]:
    """Image and pull policy of pods that run a script, as the chart names them; `worker`: a script needs torch."""
    files = Chart.load(CHART).render(values, name="images", namespace="images")
    deployment = next(filter(None, yaml.safe_load_all(files[f"headrace/templates/{part}/deployment.yaml"])))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return container["image"], container["imagePullPolicy"]
