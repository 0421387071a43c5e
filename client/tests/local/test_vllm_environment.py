"""vLLM's environment, made by the real pip; wheels of a few bytes stand for vLLM and what it stands on."""

import base64
import dataclasses
import hashlib
import importlib.metadata
import json
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from headrace.local import vllm_environment
from headrace.local.plan import StackError
from headrace.local.report import Report
from headrace.local.vllm_environment import Recipe, make


def wheel(folder: Path, name: str, version: str, *needs: str) -> None:
    """Puts one into the folder: an empty module, and what it asks for."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {one}\n" for one in needs),
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    digests = {path: hashlib.sha256(text.encode()).digest() for path, text in files.items()}
    record = [f"{path},sha256={base64.urlsafe_b64encode(one).decode().rstrip('=')}," for path, one in digests.items()]
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for path, text in (files | {f"{info}/RECORD": "\n".join([*record, f"{info}/RECORD,,"])}).items():
            archive.writestr(path, text)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def recipe(tmp_path: Path, wheels: Path) -> Recipe:
    wheel(wheels, "engine_core", "1.0")
    wheel(wheels, "engine_core", "2.0")
    wheel(wheels, "engine_pictures", "1.0")
    wheel(wheels, "engine", "1.0", "engine_core", "engine_pictures")
    wheel(wheels, "engine_model", "1.0", "a_program_of_others")
    constraints = tmp_path / "constraints.txt"
    constraints.write_text("engine_core==1.0\n")
    return Recipe(["engine==1.0"], constraints, ("engine_pictures",), ("engine_model==1.0",))


def installed(python: Path) -> Mapping[str, str]:
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    told = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, str] = json.loads(told.stdout)
    return found


def test_it_is_made_once_by_the_pinned_versions_and_anew_when_they_change(
    tmp_path: Path, recipe: Recipe, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "engines" / "vllm"
    with Report() as report:
        python = make(folder, recipe, report)
        assert installed(python) == {"engine": "1.0", "engine_core": "1.0", "engine_model": "1.0"}
        assert "an environment of its own" in capsys.readouterr().err
        assert make(folder, recipe, report) == python
        assert capsys.readouterr().err == "", "it is there"
        recipe.constraints.write_text("engine_core==2.0\n")
        make(folder, recipe, report)
        assert installed(python)["engine_core"] == "2.0"


def test_what_cannot_be_installed_is_one_sentence_that_says_what_to_do_and_is_tried_again(
    tmp_path: Path, recipe: Recipe, wheels: Path
) -> None:
    folder = tmp_path / "engines" / "vllm"
    wheel(wheels, "engine", "2.0", "torch==2.13.0+cpu")
    broken = recipe._replace(requirements=["engine==2.0"])
    with Report() as report:
        with pytest.raises(StackError, match=r"ERROR: C.* engine.*PIP_EXTRA_INDEX_URL") as told:
            make(folder, broken, report)
        assert str(folder.with_suffix(".log")) in str(told.value)
        assert "torch" in folder.with_suffix(".log").read_text()
        assert "engine" in installed(make(folder, recipe, report))


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "engines").write_text("in the way")
    with pytest.raises(StackError, match="virtual environment"), Report() as report:
        make(tmp_path / "engines" / "vllm", recipe, report)


@dataclasses.dataclass
class Installed:
    """A distribution as pip leaves it."""

    direct_url: str | None
    version: str = "0.1.0"

    def read_text(self, name: str) -> str | None:
        return {"direct_url.json": self.direct_url}[name]


@pytest.mark.parametrize(
    ("direct_url", "requirement"),
    [
        (None, "headrace-worker[vllm]==0.1.0"),
        ('{"url": "file:///a%20b/worker", "dir_info": {"editable": true}}', "--editable=/a b/worker[vllm]"),
        ('{"url": "file:///a/worker", "dir_info": {}}', "headrace-worker[vllm] @ file:///a/worker"),
        ('{"url": "https://x.org/w.whl", "archive_info": {}}', "headrace-worker[vllm] @ https://x.org/w.whl"),
    ],
)
def test_the_worker_in_it_is_the_one_that_is_installed_here(
    monkeypatch: pytest.MonkeyPatch, direct_url: str | None, requirement: str
) -> None:
    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Installed(direct_url))
    assert vllm_environment._requirement("headrace-worker", "vllm") == requirement


def test_the_worker_s_list_of_versions_is_found() -> None:
    assert "\nvllm==" in vllm_environment._constraints().read_text()
