"""docs/clients.md: each recipe does what its reader expects, word for word, in an environment of its own."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from integrations.environments import node_modules_with, python_with
from testbed.model_stack import model_stack
from testbed.ports import free_port
from testbed.programs import program
from testbed.waiting import wait_until
from worker.engine_options import PACKAGED_MODEL, TransformersOptions
from worker.engines.checkpoint.tokenizer import load_tokenizer
from worker.engines.transformers.weights import load_weights

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "clients.md").read_text()
STREAMS_PAGE = (DOCS / "durable-streams.md").read_text()
ADDRESS = "http://127.0.0.1:8000"
SECONDS = 300
"""Bound on one recipe: a page is full of answers of a real model on a CPU."""

OPENAI = ("openai==1.109.1", "openai==3.57.0")
"""Beside the one that `make test` has."""
PINS = {
    "gradio": "gradio==6.31.0",
    "langchain-openai": "langchain-openai==1.7.4",
    "litellm": "litellm==1.110.2",
    "lm_eval[api]": "lm_eval[api]==0.4.13",
    "openai": "openai==3.57.0",
    "pydantic-ai-slim[openai]": "pydantic-ai-slim[openai]==2.68.0",
    "smolagents[openai]": "smolagents[openai]==1.26.0",
    "durable-streams": "durable-streams==0.1.0",
    "transformers": "transformers==5.24.0",
    "@ai-sdk/openai": "@ai-sdk/openai@3.0.141",
    "@ai-sdk/openai-compatible": "@ai-sdk/openai-compatible@2.0.92",
    "@durable-streams/client": "@durable-streams/client@0.2.7",
    "@openai/agents": "@openai/agents@0.20.0",
    "@openai/codex": "@openai/codex@0.169.0",
    "ai": "ai@6.0.326",
    "zod": "zod@4.6.7",
}
"""What the page's `install` lines stand for, so that a release of today breaks no test of yesterday's code."""
NODE_OPENAI = "openai@6.49.0"


def section(heading: str) -> str:
    """The page from this heading to the next."""
    found = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found, f"docs/clients.md has no section {heading}"
    return found[1]


def blocks(heading: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", section(heading), re.DOTALL | re.MULTILINE)


def installed(heading: str, at: int = 0) -> list[str]:
    """The packages that one of the section's lines of shell installs."""
    words = blocks(heading, "bash")[at].split()
    assert words[:2] in (["pip", "install"], ["npm", "install"])
    return [word.strip("'") for word in words[2:]]


def run(*command: str, folder: Path | None = None) -> str:
    """What it prints."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_openai(python: Path | str, url: str) -> None:
    streamed, parsed, called = (
        run(str(python), "-c", block.replace(ADDRESS, url)) for block in blocks("OpenAI, Python", "python")
    )
    assert "Paris" in streamed
    assert re.search(r"name='.*' country='", parsed)
    assert called.strip()


def test_openai_in_this_environment(url: str) -> None:
    check_openai(sys.executable, url)


def test_a_response_outlives_its_reader(url: str) -> None:
    [block] = blocks("OpenAI, Python: an answer that outlives its reader", "python")
    assert run(sys.executable, "-c", block.replace(ADDRESS, url)).strip()


def test_openai_s_agents_in_this_environment(url: str) -> None:
    [block] = blocks("OpenAI's Agents SDK", "python")
    called, _, said = run(sys.executable, "-c", block.replace(ADDRESS, url)).partition("\n")
    assert re.fullmatch("It is sunny in .*, 24 degrees.", called)
    assert said.strip()


def test_a_durable_stream_in_this_environment(url: str) -> None:
    [block] = blocks("Durable Streams", "python")
    assert "Paris" in run(sys.executable, "-c", block.replace(ADDRESS, url))


def check_anthropic(python: Path | str, url: str) -> None:
    [block] = blocks("Anthropic, Python", "python")
    counted, _, said = run(str(python), "-c", block.replace(ADDRESS, url)).partition("\n")
    assert re.fullmatch(r"\d+ tokens", counted)
    assert said.strip()


def test_anthropic_in_this_environment(url: str) -> None:
    check_anthropic(sys.executable, url)


@pytest.mark.needs("curl")
def test_curl(url: str) -> None:
    [command] = blocks("curl", "bash")
    printed = run("bash", "-euo", "pipefail", "-c", command.replace(ADDRESS, url))
    *chunks, end = [line.removeprefix("data: ") for line in printed.splitlines() if line.startswith("data: ")]
    assert end == "[DONE]"
    text = "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in json.loads(chunk)["choices"])
    assert "Paris" in text


@pytest.mark.parametrize("version", OPENAI)
def test_openai_in_other_versions(url: str, version: str) -> None:
    check_openai(python_with(version), url)


@pytest.mark.parametrize(
    ("heading", "expected"),
    [
        ("LangChain", r"(?s)Paris.*\nname='.*' country='.*\n.+"),
        ("smolagents", "."),
        ("LiteLLM", "Paris"),
        ("Pydantic AI", r"Paris.*\nCity\(name='.*', country='.*'\)"),
    ],
)
def test_python_programs(url: str, heading: str, expected: str) -> None:
    python = python_with(*(PINS[name] for name in installed(heading)))
    [block] = blocks(heading, "python")
    printed = run(str(python), "-c", block.replace(ADDRESS, url))
    assert re.search(expected, printed), printed


def test_lm_evaluation_harness(url: str, tmp_path: Path) -> None:
    """Its accuracy is that of the model's own forward pass. Without a hub: the tokenizer is the packaged model's."""
    options = TransformersOptions(model_source=PACKAGED_MODEL)
    tokenizer = load_tokenizer(options)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    python = python_with(*(PINS[name] for name in installed("lm-evaluation-harness")))
    block = blocks("lm-evaluation-harness", "bash")[1].replace(ADDRESS, url)
    assert "tokenizer=HuggingFaceTB/SmolLM2-135M-Instruct" in block
    here = block.replace("HuggingFaceTB/SmolLM2-135M-Instruct", str(tmp_path / "tokenizer"))
    environment = f"export HF_HUB_OFFLINE=1 PATH={python.parent}:$PATH\n"
    printed = run("bash", "-euo", "pipefail", "-c", environment + here, folder=tmp_path)
    [accuracy] = re.findall(r"\|acc +\|↑ +\| *([\d.]+)\|", printed)

    model = load_weights(options, lambda detail, fraction: None)

    def loglikelihood(context: str, continuation: str) -> float:
        ids = torch.tensor([tokenizer.encode(context + continuation)])
        first = len(tokenizer.encode(context))
        with torch.no_grad():
            scores = model(ids).logits[0].log_softmax(-1)
        return float(scores[first - 1 : -1].gather(1, ids[0, first:, None]).sum())

    questions = [json.loads(line) for line in (tmp_path / "capitals.jsonl").read_text().splitlines()]
    right = 0
    for question in questions:
        likely = [loglikelihood(f"The capital of {question['country']} is", f" {city}") for city in question["cities"]]
        right += likely.index(max(likely)) == question["right"]
    assert float(accuracy) == pytest.approx(right / len(questions), abs=1e-4), printed
    assert right > 1, "of four, among three each: no better than chance"


@pytest.mark.needs("npm")
@pytest.mark.parametrize(
    ("heading", "at", "expected"),
    [
        ("OpenAI, JavaScript", 0, r"(?s)Paris.*name: .*country: .*role: "),
        ("OpenAI's Agents SDK, JavaScript", 0, r"It is sunny in .*, 24 degrees.\n.+"),
        ("Vercel's AI SDK", 0, r"(?s)Paris.*\n\d+ tokens\nIt is sunny in .*, 24 degrees"),
        ("Vercel's AI SDK", 1, r"(?s)Paris.*\nresp_"),
    ],
)
def test_node_programs(url: str, heading: str, at: int, expected: str) -> None:
    pins = PINS | {"openai": NODE_OPENAI}
    folder = node_modules_with(*(pins[name] for name in installed(heading, at)))
    block = blocks(heading, "javascript")[at]
    # Module code on the command line finds packages in the current folder.
    printed = run(program("node"), "--input-type=module", "-e", block.replace(ADDRESS, url), folder=folder)
    assert re.search(expected, printed), printed


@pytest.mark.needs("npm")
def test_a_durable_stream_in_node(url: str) -> None:
    folder = node_modules_with(*(PINS[name] for name in installed("Durable Streams")))
    [block] = re.findall(r"^```javascript\n(.*?)^```$", STREAMS_PAGE, re.DOTALL | re.MULTILINE)
    assert "Paris" in run(program("node"), "--input-type=module", "-e", block.replace(ADDRESS, url), folder=folder)


CALL = {"name": "exec_command", "arguments": {"cmd": "echo $((40 + 2)) > made.txt; cat made.txt"}}


@pytest.mark.needs("npm")
def test_codex_runs_a_command_and_tells_of_it(tmp_path: Path) -> None:
    """With an engine that calls its tool by script: no model that a test can run would."""
    folder, home, work = node_modules_with(PINS["@openai/codex"]), tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    [config] = blocks("Codex", "toml")
    [_, command] = blocks("Codex", "bash")
    _, *options, _ = shlex.split(command.removeprefix("npx "))
    options[options.index("workspace-write")] = "danger-full-access"  # its sandbox needs a kernel's leave
    rounds = [f"<tool_call>{json.dumps(CALL)}</tool_call>", "It says 42."]
    with model_stack(tmp_path / "stack", source="scripted:?token_ms=0&context=400000") as (url, judged):
        config = config.replace(ADDRESS, url).replace("16384", "400000")  # a byte is a token
        (home / "config.toml").write_text(config)
        done = subprocess.run(
            [folder / "node_modules" / ".bin" / "codex", *options, f"!rounds {json.dumps(rounds)}"],
            cwd=work,
            env=os.environ | {"CODEX_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        judged.check()
    assert done.stdout.strip() == "It says 42."
    assert (work / "made.txt").read_text() == "42\n"


def test_gradio(url: str, tmp_path: Path) -> None:
    python = python_with(*(PINS[name] for name in installed("Gradio")))
    port = free_port()
    [block] = blocks("Gradio", "python")
    page = block.replace(ADDRESS, url).replace("7860", str(port))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([python, "-c", page], stdout=log, stderr=log)
    try:
        wait_until(lambda: listens(port), SECONDS, (tmp_path / "log").read_text)
        assert "Paris" in run(str(python), "-c", VISITOR, str(port))
    finally:
        process.kill()
        process.wait(10)


VISITOR = """
import sys
from gradio_client import Client

page = Client(f"http://127.0.0.1:{sys.argv[1]}")
print(page.predict({"text": "What is the capital of France?", "files": []}, api_name="/open_api_stream"))
"""
"""What a browser does on that page."""


def listens(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
