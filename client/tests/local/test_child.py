"""One process of the local stack."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from headrace.local.child import LOG_TAIL_BYTES, Child
from testbed.waiting import wait_until

SECONDS = 20.0
"""On every wait."""
PARENT = """
    import sys, threading
    from pathlib import Path
    from headrace.local.child import Child

    child = Child("c", [sys.executable, "-c", "import time; time.sleep(60)"], {}, Path(sys.argv[1]))
    child.start()
    print(child.pid, flush=True)
    threading.Event().wait()
    """

Start = Callable[..., Child]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(program)` -> a child that runs this Python."""
    children: list[Child] = []

    def start(program: str, **environment: str) -> Child:
        command = [sys.executable, "-c", textwrap.dedent(program)]
        children.append(Child("c", command, environment, tmp_path / "c.log"))
        children[-1].start()
        return children[-1]

    yield start
    for child in children:
        child.wait(0)


def says(child: Child, line: str) -> None:
    wait_until(lambda: line in child.log_lines(), SECONDS, lambda: f"{line!r}: {child.log_lines()}")


def dies(child: Child) -> str:
    return wait_until(child.death, SECONDS, lambda: "its death")


def test_its_output_and_its_end_are_known(start: Start) -> None:
    child = start("import os, sys; print(os.environ['WORD']); print(file=sys.stderr); sys.exit(3)", WORD="hello")
    assert dies(child) == "ended with exit code 3"
    assert child.log_lines() == ["hello"]


def test_a_signal_that_ended_it_is_named(start: Start) -> None:
    child = start("import time; print('up', flush=True); time.sleep(60)")
    says(child, "up")
    assert child.death() is None
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    assert dies(child) == "was killed by SIGKILL"


def test_after_another_start_only_the_new_lines_count(start: Start) -> None:
    child = start("import os; print(os.getpid())")
    dies(child)
    (first,) = child.log_lines()
    child.start()
    dies(child)
    (second,) = child.log_lines()
    assert first != second


def test_of_a_long_log_the_end_is_read(start: Start) -> None:
    child = start("for number in range(100_000): print(number)")
    dies(child)
    lines = child.log_lines()
    assert lines[-1] == "99999"
    assert sum(len(line) + 1 for line in lines) <= LOG_TAIL_BYTES


def test_one_that_does_not_stop_when_asked_is_killed_with_all_that_it_started(start: Start) -> None:
    child = start(
        """
        import signal, subprocess, sys
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        print(started.pid, flush=True)
        started.wait()
        """
    )
    (grandchild,) = wait_until(child.log_lines, SECONDS, lambda: "its own child")
    child.terminate()
    child.wait(0.2)
    assert child.death() == "was killed by SIGKILL"
    wait_until(lambda: not alive(int(grandchild)), SECONDS, lambda: "the end of its own child")


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the tether")
def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert alive(child)
        parent.kill()
        wait_until(lambda: not alive(child), SECONDS, lambda: "the end of the child")


def test_one_that_was_never_started_has_nothing_to_stop(tmp_path: Path) -> None:
    child = Child("c", ["true"], {}, tmp_path / "log")
    child.terminate()
    child.wait(0)
    assert (child.pid, child.death()) == (None, None)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
