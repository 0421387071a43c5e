"""The commands of docs/kubernetes.md and of the installation's notes work as they are printed, in order."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from testbed.ports import free_port

from .cluster import START_SECONDS, Cluster, until
from .doors import kubectl
from .release import Json

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "kubernetes.md"
RELEASE = "headrace"
"""The page's name for it, and for its namespace."""
WHAT_IS_LEFT = (
    "kubectl -n headrace get -l app.kubernetes.io/instance=headrace -o name "
    "all,pvc,secrets,configmaps,serviceaccounts,roles,rolebindings,pdb"
)

Paste = Callable[[str], str]


@pytest.fixture
def paste(cluster: Cluster, base_values: Json, tmp_path: Path) -> Iterator[Paste]:
    """A shell with `helm` and `kubectl`, in the checkout; its commands run in the session's namespace."""
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(base_values))
    (tmp_path / "helm").write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__).parent}/helm_command.py "$@"\n')
    (tmp_path / "helm").chmod(0o755)
    (tmp_path / "kubectl").symlink_to(kubectl())
    environment = {**os.environ, "VALUES": str(tmp_path / "values.yaml"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    port = str(free_port())

    def run(commands: str) -> str:
        ours = re.sub(r"(-n|--namespace) headrace(?=\s)", rf"\1 {cluster.namespace}", commands)
        ours = ours.replace("127.0.0.1:8000", f"127.0.0.1:{port}").replace(" 8000:8000", f" {port}:8000")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", ours],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=2 * START_SECONDS,
        )
        assert done.returncode == 0, f"{ours}\n{done.stdout}\n{cluster.describe()}"
        return done.stdout

    yield run
    subprocess.run([tmp_path / "helm", "uninstall", RELEASE, "-n", cluster.namespace], env=environment, timeout=300)
    everything = f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component!=test"
    until(
        lambda: not cluster.core.list_namespaced_pod(cluster.namespace, label_selector=everything).items,
        START_SECONDS,
        f"the last pod of {RELEASE} is gone",
    )


def section(title: str) -> str:
    """The commands of one section of the page, without those that make the images: k8s-tests/README.md says how they
    get to the nodes."""
    text = PAGE.read_text().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    commands = "".join(re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    return re.sub(r"^make images.*$", "", commands, flags=re.MULTILINE)


def pasted_from(notes: str) -> str:
    """The indented lines of the notes, but for the hints at their end."""
    lines = notes.partition("NOTES:\n")[2].partition("Worth knowing")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith("  "))


def check_that_it_knows_paris(printed: str) -> None:
    answer = printed.partition("event: final_text")[2]
    assert "Paris" in answer, printed
    assert '"state":"SUCCESS"' in answer, printed


def test_page_and_notes_install_ask_upgrade_and_uninstall(paste: Paste, base_values: Json) -> None:
    installed = paste(section("Install"))
    check_that_it_knows_paris(installed)
    assert "Paris" in installed.partition("answer:")[2], installed  # the pod of `helm test`
    check_that_it_knows_paris(paste(pasted_from(installed)))
    paste(section("Upgrade"))
    check_that_it_knows_paris(paste(pasted_from(installed)))
    removal = section("Uninstall")
    if base_values.get("redis", {}).get("bundled", {}).get("persistence", {}).get("enabled") is False:
        removal = re.sub(r"^.* delete pvc .*$", "", removal, flags=re.MULTILINE)
    paste(removal)
    until(lambda: not paste(WHAT_IS_LEFT).strip(), START_SECONDS, "an empty namespace")
