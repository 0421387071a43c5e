"""Files that are changed as a whole, by one process at a time: who reads one never meets half of it."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

WAIT_SECONDS = 10.0
"""For another process that changes the same file: it takes milliseconds."""
LOOK_SECONDS = 0.02


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody else who asks in this way changes the file meanwhile. Raises OSError: TimeoutError if it stays taken.

    The lock is on a file beside it, which stays: the file itself is another one after each change. Windows has none.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_name(f".{target.name}.lock").open("a") as lock:
        until = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(None, f"another process has held it for {WAIT_SECONDS:g} s") from None
                time.sleep(LOOK_SECONDS)
        yield


def replace(path: Path, text: str) -> None:
    """Puts the text in the file's place, all or nothing; a new file is for its owner alone. Raises OSError."""
    target = path.resolve()  # a link stays one
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            os.chmod(name, target.stat().st_mode & 0o777)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
