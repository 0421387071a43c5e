"""How traffic comes in, and that the second port has no way in from outside."""

import pytest

from charts.tests.rendering import Manifests, Render

INGRESS = {"enabled": True, "hosts": ["llm.example.com"]}


def test_the_second_port_is_in_no_route(manifests: Manifests) -> None:
    main = manifests.one("Service", "-api")
    assert [port["targetPort"] for port in main["spec"]["ports"]] == ["http"]
    for ingress in manifests.of("Ingress"):
        for rule in ingress["spec"]["rules"]:
            for path in rule["http"]["paths"]:
                assert path["backend"]["service"] == {"name": main["metadata"]["name"], "port": {"name": "http"}}
    for route in manifests.of("HTTPRoute"):
        for rule in route["spec"]["rules"]:
            assert rule["backendRefs"] == [{"name": main["metadata"]["name"], "port": main["spec"]["ports"][0]["port"]}]
    internal = manifests.one("Service", "-api-internal")
    assert internal["spec"]["type"] == "ClusterIP"


def test_every_port_names_its_protocol(manifests: Manifests) -> None:
    for service in manifests.of("Service"):
        for port in service["spec"]["ports"]:
            assert port["appProtocol"] in ("http", "tcp")
            assert port["name"].split("-")[0] == port["appProtocol"]


def test_a_gateways_route_has_no_time_out(render: Render) -> None:
    manifests = render(
        {"gateway": {"enabled": True, "parentRefs": [{"name": "public"}], "hostnames": ["a.example.com"]}}
    )
    route = manifests.one("HTTPRoute", "-api")
    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"] == {
        "parentRefs": [{"name": "public"}],
        "hostnames": ["a.example.com"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "timeouts": {"request": "0s", "backendRequest": "0s"},
                "backendRefs": [{"name": "headrace-api", "port": 8000}],
            }
        ],
    }


@pytest.mark.parametrize(
    ("controller", "annotations"),
    [
        ("ingress-nginx", {"nginx.ingress.kubernetes.io/proxy-buffering": "off"}),
        ("ingress-nginx", {"nginx.ingress.kubernetes.io/proxy-read-timeout": "3600"}),
        ("nginx-inc", {"nginx.org/proxy-buffering": "False", "nginx.org/proxy-read-timeout": "3600s"}),
        ("haproxy", {"haproxy.org/timeout-server": "3600s"}),
        ("haproxy-ingress", {"haproxy-ingress.github.io/timeout-server": "3600s"}),
        ("contour", {"projectcontour.io/response-timeout": "infinity"}),
        ("openshift", {"haproxy.router.openshift.io/timeout": "3600s"}),
        ("alb", {"alb.ingress.kubernetes.io/load-balancer-attributes": "idle_timeout.timeout_seconds=3600"}),
        ("traefik", {}),
        ("", {}),
    ],
)
def test_each_controller_is_told_about_long_streams(
    render: Render, controller: str, annotations: dict[str, str]
) -> None:
    manifests = render({"ingress": {**INGRESS, "controller": controller}})
    found = manifests.one("Ingress", "-api")["metadata"].get("annotations", {})
    assert annotations.items() <= found.items()
    assert bool(found) == bool(annotations)


def test_users_annotations_win(render: Render) -> None:
    own = {"nginx.ingress.kubernetes.io/proxy-read-timeout": "60", "cert-manager.io/cluster-issuer": "le"}
    manifests = render({"ingress": {**INGRESS, "controller": "ingress-nginx", "annotations": own}})
    assert own.items() <= manifests.one("Ingress", "-api")["metadata"]["annotations"].items()
