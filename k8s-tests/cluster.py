"""One namespace of the cluster that KUBECONFIG names: what stands in it, and waiting for it."""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
from kubernetes.client import (
    ApiClient,
    ApiException,
    ApiextensionsV1Api,
    AppsV1Api,
    Configuration,
    CoreV1Api,
    CustomObjectsApi,
    NetworkingV1Api,
    StorageV1Api,
    V1Pod,
    VersionApi,
)
from kubernetes.config import load_kube_config
from kubernetes.stream import stream

from testbed.waiting import wait_until

START_SECONDS = 600.0
"""Within which a pod is ready, the pull of its image and the load of its model included."""
POLL_SECONDS = 0.5
RESTRICTED_POD: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}
RESTRICTED_CONTAINER: dict[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Asks again and again, because the cluster is asked over HTTP; fails by name after `seconds`."""
    wait_until(condition, seconds, lambda: what, POLL_SECONDS)


class Cluster:
    """A namespace of its own, in which Pod Security refuses every pod outside the restricted profile."""

    def __init__(self, namespace: str) -> None:
        configuration = Configuration()
        load_kube_config(client_configuration=configuration)
        configuration.retries = urllib3.Retry(5, backoff_factor=1)  # an API server may be short of time
        api = ApiClient(configuration)
        self.namespace = namespace
        self.core = CoreV1Api(api)
        self.apps = AppsV1Api(api)
        self.networking = NetworkingV1Api(api)
        self.storage = StorageV1Api(api)
        self.version = str(VersionApi(api).get_code().git_version)

    def make(self) -> None:
        """Makes the namespace; its default service account is there when this returns."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.core.create_namespace({"metadata": {"name": self.namespace, "labels": labels}})
        until(self._has_service_account, 60, "the default service account")

    def _has_service_account(self) -> bool:
        with contextlib.suppress(ApiException):
            return bool(self.core.read_namespaced_service_account("default", self.namespace))
        return False

    def remove(self) -> None:
        """Removes the namespace with everything in it."""
        self.core.delete_namespace(self.namespace, grace_period_seconds=0)
        until(self._is_gone, 300, f"the end of namespace {self.namespace}")

    def _is_gone(self) -> bool:
        try:
            self.core.read_namespace(self.namespace)
        except ApiException as error:
            return bool(error.status == 404)
        return False

    def provisions_volumes(self) -> bool:
        """Whether a claim that names no storage class gets a volume made for it."""
        by_default = "storageclass.kubernetes.io/is-default-class"
        return any(
            (one.metadata.annotations or {}).get(by_default) == "true"
            for one in self.storage.list_storage_class().items
        )

    def pods(self, selector: str) -> list[V1Pod]:
        """Those that are not being deleted."""
        found = self.core.list_namespaced_pod(self.namespace, label_selector=selector).items
        return [pod for pod in found if not pod.metadata.deletion_timestamp]

    def ready_pods(self, selector: str) -> list[str]:
        """Names of the pods that a Service with this selector would send to."""
        return [
            pod.metadata.name
            for pod in self.pods(selector)
            if any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())
        ]

    def failures(self, selector: str) -> int:
        """How often these pods' containers were started again, or their images could not be pulled."""
        pods = self.pods(selector)
        restarts = [one.restart_count for pod in pods for one in pod.status.container_statuses or ()]
        names = {pod.metadata.name for pod in pods}
        pulls = [
            event.count or 1
            for event in self.core.list_namespaced_event(self.namespace, field_selector="reason=Failed").items
            if event.involved_object.name in names and event.message.startswith("Failed to pull image")
        ]
        return int(sum(restarts) + sum(pulls))

    def keda_version(self) -> str:
        """Empty: KEDA is not installed."""
        definitions = ApiextensionsV1Api(self.core.api_client)
        try:
            found = definitions.read_custom_resource_definition("scaledobjects.keda.sh")
        except ApiException as error:
            if error.status != 404:
                raise
            return ""
        labels = found.metadata.labels or {}
        return str(labels.get("app.kubernetes.io/version", "of a version that it does not say"))

    def pause_keda(self, scaled_object: str, paused: bool) -> None:
        """Whether KEDA leaves the replicas as they are."""
        body = {"metadata": {"annotations": {"autoscaling.keda.sh/paused": "true" if paused else None}}}
        CustomObjectsApi(self.core.api_client).patch_namespaced_custom_object(
            "keda.sh", "v1alpha1", self.namespace, "scaledobjects", scaled_object, body
        )

    def seconds_until_ready(self, pod: str) -> float:
        """From its container's start; the cluster counts in whole seconds."""
        status = self.core.read_namespaced_pod(pod, self.namespace).status
        ready = next(one.last_transition_time for one in status.conditions if one.type == "Ready")
        return float((ready - status.container_statuses[0].state.running.started_at).total_seconds())

    def delete_pod(self, name: str, *, at_once: bool = False) -> None:
        """At once: SIGKILL after the two seconds that a kubelet always gives. Otherwise the pod's own grace period."""
        grace = {"grace_period_seconds": 0} if at_once else {}
        self.core.delete_namespaced_pod(name, self.namespace, **grace)

    def scale(self, deployment: str, replicas: int) -> None:
        """What an autoscaler does."""
        self.apps.patch_namespaced_deployment_scale(deployment, self.namespace, {"spec": {"replicas": replicas}})

    def require_of_nodes(self, deployment: str, labels: dict[str, str | None]) -> None:
        """Its pods wait for a node with these labels; None takes a requirement away."""
        body = {"spec": {"template": {"spec": {"nodeSelector": labels}}}}
        self.apps.patch_namespaced_deployment(deployment, self.namespace, body)

    def rolled_out(self, deployment: str) -> bool:
        """Whether exactly the pods that are wanted exist, of the newest template, all of them available."""
        found = self.apps.read_namespaced_deployment(deployment, self.namespace)
        status, wanted = found.status, found.spec.replicas
        counts = [status.replicas or 0, status.updated_replicas or 0, status.available_replicas or 0]
        return (status.observed_generation or 0) >= found.metadata.generation and counts == [wanted] * 3

    def execute(self, pod: str, *command: str) -> str:
        """Standard output of a command in the pod's first container."""
        with ApiClient(self.core.api_client.configuration) as api:  # `stream` changes the client it is given
            running = stream(
                CoreV1Api(api).connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                command=list(command),
                stdout=True,
                stderr=True,
                _preload_content=False,
            )
            try:
                running.run_forever(timeout=60)
                assert running.returncode == 0, f"{command} in {pod}: {running.read_stderr()}"
                return str(running.read_stdout()).strip()
            finally:
                running.close()
                running.sock.shutdown()  # the client leaves a socket open whose other end has said goodbye first

    def run_python(self, name: str, image: str, pull_policy: str, files: dict[str, str], *args: str) -> None:
        """A pod that runs the first of these Python files, under a Service of its own name, port 8080 and 4318."""
        labels = {"app": name}
        self.core.create_namespaced_config_map(self.namespace, {"metadata": {"name": name}, "data": files})
        container = {
            "name": "python",
            "image": image,
            "imagePullPolicy": pull_policy,
            "command": ["python", "-u", f"/files/{next(iter(files))}", *args],
            "securityContext": RESTRICTED_CONTAINER,
            "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
            "volumeMounts": [{"name": "files", "mountPath": "/files"}],
        }
        spec = {
            "securityContext": RESTRICTED_POD,
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            "volumes": [{"name": "files", "configMap": {"name": name}}],
        }
        self.core.create_namespaced_pod(self.namespace, {"metadata": {"name": name, "labels": labels}, "spec": spec})
        ports = [{"name": f"p{port}", "port": port} for port in (8080, 4318)]
        service = {"metadata": {"name": name}, "spec": {"selector": labels, "ports": ports}}
        self.core.create_namespaced_service(self.namespace, service)
        until(lambda: name in self.ready_pods(f"app={name}"), START_SECONDS, f"pod {name} is ready")

    def remove_python(self, name: str) -> None:
        """Takes away what `run_python` made."""
        self.core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)
        self.core.delete_namespaced_service(name, self.namespace)
        self.core.delete_namespaced_config_map(name, self.namespace)

    def log(self, pod: str, **options: Any) -> str:
        """Empty while there is none."""
        with contextlib.suppress(ApiException):
            return str(self.core.read_namespaced_pod_log(pod, self.namespace, **options))
        return ""

    def log_objects(self, pod: str) -> list[dict[str, Any]]:
        """The lines of a pod's log that are JSON objects."""
        return [json.loads(line) for line in self.log(pod).splitlines() if line.startswith("{")]

    def describe(self) -> str:
        """Pods, warnings and the ends of logs, for a test that failed."""
        return "\n".join(self._described())

    def _described(self) -> Iterator[str]:
        pods = self.core.list_namespaced_pod(self.namespace).items
        for pod in pods:
            ready = [f"{one.type}={one.status}" for one in pod.status.conditions or ()]
            yield f"{pod.metadata.name}: {pod.status.phase} {pod.metadata.deletion_timestamp or ''} {' '.join(ready)}"
        for event in self.core.list_namespaced_event(self.namespace).items:
            if event.type == "Warning":
                yield f"{event.involved_object.name}: {event.reason}: {event.message} (x{event.count})"
        for pod in pods:
            yield f"--- {pod.metadata.name}\n{self.log(pod.metadata.name, tail_lines=20)}"
