"""The table that a run of the faults ends with: how long clients waited at most for their next event."""

from typing import cast

import pytest

from testbed.stack import Stack

SILENCE = "tasks, longest silence"
"""The property of a test's report: how many tasks it had, and seconds."""


def report_silence(request: pytest.FixtureRequest, running: Stack) -> None:
    """Adds the test to the table that a run ends with."""
    silence = max((history.longest_silence for history in running.histories), default=0.0)
    request.node.user_properties.append((SILENCE, (len(running.histories), round(silence, 2))))


def silence_table(reports: list[pytest.TestReport]) -> list[str]:
    """Its rows, as docs/reliability.md has them."""
    rows = sorted(
        (report.nodeid.partition("::")[2].removeprefix("test_").replace("_", " "), *cast(tuple[int, float], value))
        for report in reports
        for name, value in report.user_properties
        if name == SILENCE
    )
    return [f"| {test} | {tasks} | {seconds:.1f} s |" for test, tasks, seconds in rows]
