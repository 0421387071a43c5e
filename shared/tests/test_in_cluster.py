from pathlib import Path

import pytest

from shared import in_cluster
from shared.in_cluster import NoCluster, api_client


async def test_outside_of_a_cluster_it_says_what_is_missing() -> None:
    with pytest.raises(NoCluster, match="Service host/port is not set"):
        async with api_client("core_v1_api"):
            pass


async def test_a_pod_whose_namespace_is_not_told_is_in_no_cluster_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in (("token", "secret"), ("ca.crt", "certificate")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "6443")
    from kubernetes.aio.config import incluster_config

    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(in_cluster, "NAMESPACE_FILE", tmp_path / "missing")
    with pytest.raises(NoCluster, match="missing"):
        async with api_client():
            pass
