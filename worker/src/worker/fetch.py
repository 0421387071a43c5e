"""`python -m worker.fetch`: puts the model of the settings into the cache, once; an init container runs it."""

import logging
import sys
from pathlib import Path

from filelock import FileLock
from pydantic import ValidationError

from shared.settings import wrong_settings
from shared.telemetry.logs import set_up_logging
from worker.model_files import ModelUnavailable, locate
from worker.settings import WorkerSettings

log = logging.getLogger("worker.fetch")


def main() -> int:
    """Fetches what is not there completely yet; the exit code."""
    try:
        settings = WorkerSettings()
    except ValidationError as error:
        print(f"headrace worker: {'; '.join(wrong_settings(error))}", file=sys.stderr)  # noqa: T201  # there is no log yet
        return 2
    set_up_logging(settings.log_options(service="headrace-fetch", model=settings.model_name))
    try:
        fetch(settings)
    except ModelUnavailable as error:
        log.critical("%s", error)
        return 1
    return 0


def fetch(settings: WorkerSettings) -> bool:
    """True when something had to be fetched. Raises ModelUnavailable.

    A download that was cut off leaves a folder that looks like a model: only the mark says that it is complete. Pods
    that share the cache wait for one of them to fetch.
    """
    mark = mark_of(settings)
    mark.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{mark}.lock"):
        if mark.exists():
            log.info("The model %s is in the cache.", settings.model_source)
            return False
        log.info("Fetching the model %s.", settings.model_source)
        files = locate(settings.engine_options)
        mark.write_text(f"{files.folder}\n")
    log.info("The model %s is complete.", settings.model_source)
    return True


def mark_of(settings: WorkerSettings) -> Path:
    """The file that says that this model and revision are complete."""
    name = f"{settings.model_source}@{settings.model_revision or 'main'}".replace("/", "--").replace(":", "")
    return settings.cache_dir / "complete" / name


if __name__ == "__main__":
    sys.exit(main())
