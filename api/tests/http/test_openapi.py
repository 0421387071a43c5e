"""/openapi.json is what the server does: a generator of requests finds no 5xx and no reply that is not described."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

from fastapi.openapi.models import OpenAPI

from api.app import create_app
from api.settings import Settings
from testbed.model_stack import model_stack

ROOT = Path(__file__).parents[3]
BOUNDS = os.environ.get("OPENAPI_BOUNDS", "--phases fuzzing --max-examples 10 --max-time 15").split()
"""How much is asked; `make openapi` asks for everything: thousands of requests."""
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "unsupported_method",
)


def test_every_route_that_takes_a_body_says_which() -> None:
    document = create_app(Settings()).openapi()
    OpenAPI.model_validate(document)
    posts = {path: operations["post"] for path, operations in document["paths"].items() if "post" in operations}
    assert {path for path, post in posts.items() if "requestBody" not in post} == {"/v1/responses/{response_id}/cancel"}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert {"200", "401", "500"} <= set(operation["responses"]), path


def test_nothing_undescribed_is_found(tmp_path: Path) -> None:
    program = Path(sysconfig.get_path("scripts")) / "schemathesis"
    options = ["--seed", "1", "--no-color", *BOUNDS]
    with model_stack(tmp_path, source="scripted:?token_ms=0&tokens=2") as (url, judged):
        done = subprocess.run(
            [program, "run", f"{url}/openapi.json", "--checks", ",".join(CHECKS), *options],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "testbed.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-10000:] + done.stderr[-2000:]
        judged.check()
        sys.stdout.write("\n".join(line.strip() for line in done.stdout.splitlines() if "generated" in line) + "\n")
