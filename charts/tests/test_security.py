"""What pods may do, and who may talk to whom."""

from typing import Any

import pytest

from charts.tests.cases import CASES, QWEN
from charts.tests.rendering import Json, Manifests, Render

OWN_CONTAINERS = {"api", "worker", "fetch-model", "valkey", "chat"}


def test_every_pod_passes_the_restricted_profile(manifests: Manifests, case: Json) -> None:
    if "securityContext" in case:
        return  # the user's own: values-development.yaml
    for name, pod in manifests.pods():
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0
        assert context["seccompProfile"]["type"] == "RuntimeDefault"
        assert not any(pod.get(field) for field in ("hostNetwork", "hostPID", "hostIPC"))
        kinds = {key for volume in pod.get("volumes", []) for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "secret", "configMap", "projected", "persistentVolumeClaim", "image"}
        for one in [*pod["containers"], *pod.get("initContainers", [])]:
            if one["name"] in OWN_CONTAINERS:
                assert one["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }, (name, one["name"])
                assert "hostPort" not in str(one.get("ports"))


def test_a_pod_has_a_token_only_where_it_has_a_right(manifests: Manifests) -> None:
    bound = {item["subjects"][0]["name"] for item in manifests.of("RoleBinding")}
    for name, pod in manifests.pods():
        assert pod["automountServiceAccountToken"] is False, name
        has_token = any(volume["name"] == "kubernetes-token" for volume in pod.get("volumes", []))
        if has_token:
            assert pod["serviceAccountName"] in bound
    assert all(account["automountServiceAccountToken"] is False for account in manifests.of("ServiceAccount"))
    assert not manifests.of("ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition")


def test_the_api_may_read_its_namespace_and_nothing_else(render: Render) -> None:
    verbs = {verb for rule in render().one("Role", "-api")["rules"] for verb in rule["verbs"]}
    resources = {each for rule in render().one("Role", "-api")["rules"] for each in rule["resources"]}
    assert verbs == {"list"}
    assert resources == {"pods", "events", "deployments"}
    assert not render({"api": {"capacity": {"enabled": False}}}).of("Role", "RoleBinding")


def test_every_pod_has_a_policy(manifests: Manifests) -> None:
    policies = manifests.of("NetworkPolicy")
    if not policies:
        return
    for item in manifests.of("Deployment", "StatefulSet"):
        labels = item["spec"]["template"]["metadata"]["labels"].items()
        own = [each for each in policies if each["spec"]["podSelector"]["matchLabels"].items() <= labels]
        assert len(own) == 1, item["metadata"]["name"]
        assert own[0]["spec"]["policyTypes"] == ["Ingress", "Egress"]


def _ports(rules: list[Json]) -> set[Any]:
    return {port["port"] for rule in rules for port in rule["ports"]}


def test_policies_open_what_is_needed_and_no_more(render: Render) -> None:
    values = {"networkPolicy": {"enabled": True}, "models": {"hub": QWEN, "disk": {"source": "pvc://claim/x"}}}
    manifests = render(values)
    api, hub, disk, redis = (
        manifests.one("NetworkPolicy", name)["spec"] for name in ("-api", "worker-hub", "worker-disk", "-redis")
    )
    assert _ports(api["egress"]) == {53, 6379, 443, 6443}
    assert _ports(hub["egress"]) == {53, 6379, 443}
    assert _ports(disk["egress"]) == {53, 6379}
    assert redis["egress"] == []
    peers = [peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for peer in redis["ingress"][0]["from"]]
    assert peers == ["api", "worker"]
    assert _ports(hub["ingress"]) == {"internal"}


def test_the_api_hears_from_its_ingress_and_the_chat_test_only(render: Render) -> None:
    manifests = render(CASES["values-production"])
    first, second = manifests.one("NetworkPolicy", "-api")["spec"]["ingress"]
    assert first["ports"] == [{"port": "http"}]
    assert len(first["from"]) == 2
    assert first["from"][0]["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "gateways"}
    assert second["ports"] == [{"port": "internal"}]
    assert _ports(manifests.one("NetworkPolicy", "-api")["spec"]["egress"]) == {53, 6380, 4317, 443, 6443}


def test_no_secret_stands_in_a_pod(manifests: Manifests) -> None:
    secrets = {
        value
        for item in manifests.of("Secret")
        for value in {**item.get("data", {}), **item.get("stringData", {})}.values()
        if value
    }
    for item in manifests.of("Deployment", "StatefulSet", "Pod", "ConfigMap"):
        assert not [secret for secret in secrets if secret in str(item)]


GIVEN = {"auth": {"apiKeys": {"k": "t"}}, "redis": {"bundled": {"password": "pw"}}}


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({}, {"headrace-redis"}),
        (GIVEN, {"headrace-redis", "headrace-api-keys"}),
        ({"redis": {"external": {"url": "redis://:pw@h:6379"}}}, {"headrace-redis-url"}),
        ({"redis": {"external": {"existingSecret": "mine"}}, "auth": {"existingSecret": "keys"}}, set()),
        ({"redis": {"bundled": {"existingSecret": "mine"}}}, set()),
    ],
)
def test_secrets_that_exist_are_used_and_not_made(render: Render, values: Json, names: set[str]) -> None:
    assert {item["metadata"]["name"] for item in render(values).of("Secret")} == names
