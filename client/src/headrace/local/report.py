"""What the local stack is doing: sentences on stderr, and on a terminal a bar for each step of its start."""

import re
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

TELL_SECONDS = 3.0
"""Between two signs of life where there are no bars, while something takes its time."""
SHOWN_CHARACTERS = 100
_PERCENT = re.compile(r"(\d+) ?%")


class Report:
    """Told by the stack, from any thread; the bars stand while it is entered."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(24),
            TimeElapsedColumn(),
        )
        # Without a terminal rich would write the bars once more at the end.
        self._bars = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._step: TaskID | None = None
        self._name = ""
        self._began = self._told = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_step()
        self._bars.stop()

    def tell(self, sentence: str) -> None:
        self._console.print(f"headrace: {sentence}", markup=False, soft_wrap=True)

    def begin(self, name: str) -> None:
        """The next step; the one before is done."""
        self._end_step()
        self._name, self._began, self._told = name, time.monotonic(), time.monotonic()
        self._step = self._bars.add_task(name, total=None)

    def progress(self, detail: str) -> None:
        """How far the step is; a percentage in it moves the bar. Of a short step its name is enough."""
        detail = detail[:SHOWN_CHARACTERS]
        assert self._step is not None
        percent = _PERCENT.search(detail)
        now = time.monotonic()
        if percent is None and now < self._began + TELL_SECONDS:
            return
        self._bars.update(
            self._step,
            description=f"{self._name}: {detail}",
            total=100 if percent else None,
            completed=int(percent[1]) if percent else 0,
        )
        if self._bars.disable and now > self._told + TELL_SECONDS:
            self._told = now
            self.tell(f"{now - self._began:.0f} s; {self._name}: {detail}")

    def _end_step(self) -> None:
        if self._step is not None:
            self._bars.update(self._step, description=self._name, total=100, completed=100)
            self._step = None
