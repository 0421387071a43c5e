"""The Dockerfiles: clean, small, without root, and their signals reach the process."""

import json
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from charts.generate.chart_files import CHART
from charts.tests.cases import QWEN
from charts.tests.rendering import container, render_chart
from deploy import pin_hashes

ROOT = Path(__file__).parents[2]
VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
DOCKERFILES = ["api/Dockerfile", "worker/Dockerfile"]


@pytest.fixture(params=DOCKERFILES)
def dockerfile(request: pytest.FixtureRequest) -> str:
    return (ROOT / str(request.param)).read_text()


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, *DOCKERFILES], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert found.returncode == 0, found.stdout


def test_the_process_is_started_without_a_shell_and_without_root(dockerfile: str) -> None:
    entry = re.findall(r"^ENTRYPOINT (.*)$", dockerfile, re.M)
    assert len(entry) == 1
    assert json.loads(entry[0])[:2] == ["/opt/headrace/bin/python", "-m"]
    assert re.findall(r"^USER (.*)$", dockerfile, re.M) == ["10001:10001"]
    assert "HEALTHCHECK" not in dockerfile


def test_everything_that_is_installed_has_a_checksum(dockerfile: str) -> None:
    """But a variant of torch, whose checksum another index knows."""
    for command in re.findall(r"pip (?:--python \S+ )?install [^\n]*", dockerfile.replace("\\\n", " ")):
        variant = '--no-deps "$@"' in command and "set -- --require-hashes -r torch.txt" in dockerfile
        assert variant or ("--require-hashes" in command and "--no-deps" in command) or "--no-index" in command, command


def test_images_say_what_they_are(tmp_path: Path, dockerfile: str) -> None:
    for label in ("title", "description", "licenses"):
        assert f"org.opencontainers.image.{label}=" in dockerfile
    for command in _ran(tmp_path, {"TAG": "1.2.3", "SOURCE": "the/repository"}):
        assert "--label org.opencontainers.image.version=1.2.3 " in command
        assert re.search(r"--label org\.opencontainers\.image\.revision=[0-9a-f]{40}(-dirty)? ", command)
        assert command.count("--label org.opencontainers.image.source=the/repository ") == 1


def test_code_comes_after_dependencies(dockerfile: str) -> None:
    assert dockerfile.index("requirements.txt") < dockerfile.index("/src/ ")
    assert dockerfile.index("COPY --from=dependencies") < dockerfile.index("COPY --from=code")


def test_what_becomes_a_wheel_is_copied_whole(dockerfile: str) -> None:
    (built,) = re.findall(r"pip wheel [^\n\\]*", dockerfile)
    for distribution in re.findall(r" \./(\w+)", built):
        assert f"COPY {distribution}/pyproject.toml {distribution}/\n" in dockerfile
        assert f"COPY {distribution}/src/ {distribution}/src/\n" in dockerfile


def test_the_api_image_installs_neither_torch_nor_transformers() -> None:
    names = pinned_in("api").keys()
    assert {"fastapi", "kubernetes"} <= names
    assert not {"torch", "transformers"} & names
    assert not [name for name in names if name.startswith("headrace")]


def pinned_in(name: str) -> dict[str, str]:
    """Package -> version."""
    pins = re.findall(r"^([\w.-]+)==([^ \n]+)", (ROOT / f"deploy/hashes/{name}.txt").read_text(), re.M)
    return {package.lower(): version for package, version in pins}


VLLM = ["worker-vllm", "worker-vllm-cuda", "worker-vllm-cpu"]


@pytest.mark.parametrize("name", ["api", "worker", "worker-cuda", "tools", "model", *VLLM])
def test_checksums_are_those_of_the_pinned_versions(name: str) -> None:
    text, pins = (ROOT / f"deploy/hashes/{name}.txt").read_text(), pinned_in(name)
    constraints = pin_hashes.constraints(name).read_text().lower()
    known = dict(re.findall(r"^([\w.-]+)==(\S+)", constraints, re.M))
    assert {package for package in pins if pins[package] != known.get(package, pins[package])} == set()
    assert len(re.findall(r"^\S[^\n]*\\\n +--hash=sha256:[0-9a-f]{64}", text, re.M)) == len(pins)
    assert "://" not in text


@pytest.mark.parametrize("name", ["worker", "worker-vllm-cpu"])
def test_an_image_for_cpus_installs_nothing_that_computes_on_gpus(name: str) -> None:
    of_gpus = pinned_in("worker-cuda").keys() | pinned_in("worker-vllm-cuda").keys()
    assert pinned_in(name).keys() & of_gpus == set()


@pytest.mark.parametrize(
    ("targets", "names"),
    [
        (["shared", "api[kubernetes]"], ["api"]),
        (["shared", "worker[kubernetes]"], ["worker", "worker-cuda"]),
        (["worker[quantization]"], ["worker", "worker-cuda"]),
    ],
)
def test_nothing_that_a_distribution_needs_is_without_a_checksum(targets: list[str], names: list[str]) -> None:
    """`make hashes` writes them anew."""
    command = [sys.executable, "deploy/dependencies_of.py", *targets]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30).stdout
    needed = {requirement.partition("[")[0].lower() for requirement in printed.split()}
    pinned = {package for name in names for package in pinned_in(name)}
    assert needed <= pinned
    # Whoever needs something says so where it is installed here; a package that is not is told by the resolver alone.
    for package in pinned:
        try:
            requirements = [Requirement(text) for text in metadata.requires(package) or []]
        except metadata.PackageNotFoundError:
            continue
        for requirement in requirements:
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                name = re.sub(r"[-_.]+", "-", requirement.name.lower())
                assert name in pinned or package == "torch", f"{package} needs {name}"


def test_without_a_builder_the_script_says_what_to_install(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "basename", "env"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    done = subprocess.run(
        ["/usr/bin/bash", ROOT / "deploy/build_images.sh"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1
    assert "install one of them" in done.stderr


@pytest.mark.parametrize(
    ("environment", "worker"),
    [
        ({}, "-f worker/Dockerfile -t headrace-worker:VERSION ."),
        (
            {"CPU": "1", "REGISTRY": "r.example.com/ml/"},
            "--build-arg TORCH_VARIANT=cpu --build-arg CARRY_MODEL=1 -f worker/Dockerfile "
            "-t r.example.com/ml/headrace-worker:VERSION-cpu .",
        ),
        (
            {"CPU": "1", "REGISTRY": "r.example.com/ml"},
            "--build-arg TORCH_VARIANT=cpu --build-arg CARRY_MODEL=1 -f worker/Dockerfile "
            "-t r.example.com/ml/headrace-worker:VERSION-cpu .",
        ),
        (
            {"CPU": "1", "TAG": "1.2.3", "BASE_IMAGE": "base:1", "PIP_CONF": "/p"},
            "--build-arg BASE_IMAGE=base:1 --secret id=pip_conf,src=/p --build-arg TORCH_VARIANT=cpu "
            "--build-arg CARRY_MODEL=1 -f worker/Dockerfile -t headrace-worker:1.2.3-cpu .",
        ),
        ({"TAG": "dev"}, "-f worker/Dockerfile -t headrace-worker:dev ."),
        (
            {"IMAGES": "api worker-vllm"},
            "--build-arg TORCH_PACKAGES=worker-vllm-cuda --build-arg PACKAGES=worker-vllm "
            "--build-arg DEBIAN_PACKAGES=gcc libc6-dev -f worker/Dockerfile -t headrace-worker:VERSION-vllm .",
        ),
        (
            {"IMAGES": "api worker-vllm", "CPU": "1"},
            "--build-arg TORCH_VARIANT=cpu --build-arg CARRY_MODEL=1 --build-arg PACKAGES=worker-vllm-cpu "
            "--build-arg DEBIAN_PACKAGES=libnuma1 -f worker/Dockerfile -t headrace-worker:VERSION-vllm-cpu .",
        ),
    ],
)
def test_the_script_builds_both_images(tmp_path: Path, environment: dict[str, str], worker: str) -> None:
    api, built = _built(tmp_path, environment)
    assert "-f api/Dockerfile" in api
    assert built == f"ran: bud {worker.replace('VERSION', VERSION)}"


@pytest.mark.parametrize(
    ("environment", "model"),
    [
        ({"CPU": "1"}, {"source": "hf://a/b"}),
        ({}, QWEN),
        ({"CPU": "1", "TAG": VERSION}, {"source": "hf://a/b"}),
        ({"IMAGES": "api worker-vllm"}, {**QWEN, "engine": "vllm"}),
    ],
)
def test_the_chart_asks_for_what_the_script_builds(
    tmp_path: Path, environment: dict[str, str], model: dict[str, str]
) -> None:
    built = {line.split(" -t ")[1].split()[0] for line in _built(tmp_path, environment)}
    manifests = render_chart({"models": {"m": model}})
    deployments = [("-api", "api"), ("worker-m", "worker")]
    assert {container(manifests, "Deployment", *one)["image"] for one in deployments} == built


@pytest.mark.parametrize("page", ["docs/kubernetes.md", "k8s-tests/README.md"])
def test_the_images_that_a_page_names_are_those_that_the_chart_asks_for(page: str) -> None:
    named = set(re.findall(r"headrace-(?:api|worker):[\w.-]*\w", (ROOT / page).read_text()))
    workers = {f"headrace-worker:{VERSION}{kind}" for kind in ("", "-cpu", "-vllm", "-vllm-cpu")}
    assert named <= {f"headrace-api:{VERSION}", *workers}


def _built(tmp_path: Path, environment: dict[str, str]) -> list[str]:
    """The two commands that the script runs, without labels."""
    return [re.sub(r"--label \S+ ", "", command) for command in _ran(tmp_path, environment)]


def _ran(tmp_path: Path, environment: dict[str, str]) -> list[str]:
    builder = tmp_path / "buildah"
    builder.write_text('#!/bin/sh\necho "ran: $*"\n')
    builder.chmod(0o755)
    done = subprocess.run(
        [ROOT / "deploy/build_images.sh"],
        env={"PATH": "/usr/bin:/bin", "BUILDER": str(builder), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    ran = [line for line in done.stdout.splitlines() if line.startswith("ran:")]
    assert len(ran) == 2
    return ran
