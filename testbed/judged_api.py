"""`python -m api`, whose replies are judged: what is wrong with one is a line of the file that JUDGED_FAULTS names."""

import os
from pathlib import Path

from fastapi import FastAPI

from api import server
from api.app import create_app
from api.settings import Settings
from testbed.judged_app import JudgedApp

FILE = "JUDGED_FAULTS"
ROOT = Path(__file__).parents[1]
COMMAND = ("-P", "-m", "testbed.judged_api")


def environment(faults: Path) -> dict[str, str]:
    """Added to the settings of an API that is started by COMMAND."""
    return {FILE: str(faults), "PYTHONPATH": str(ROOT)}


def main() -> None:
    """As the API's own `main`."""
    file = Path(os.environ[FILE])

    def report(fault: str) -> None:
        # At once: the process may be killed before its next breath.
        with file.open("a") as lines:
            lines.write(f"{fault}\n")

    def judged(settings: Settings) -> FastAPI:
        app = create_app(settings)
        app.add_middleware(JudgedApp, report=report)
        return app

    server.create_app = judged  # type: ignore[attr-defined]  # where its `main` looks for it
    server.main()


if __name__ == "__main__":
    main()
