"""Spans of tasks, where nobody records them. Where somebody does, faults/test_traces.py looks at them."""

import pytest

from api.task_spans import sending

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("parent", [PARENT, ""])
def test_the_sender_s_context_goes_on_to_the_task(parent: str) -> None:
    with sending("t1", model="m", priority="normal", tenant="a", parent=parent) as context:
        assert context == parent


def test_what_is_raised_goes_through() -> None:
    with (
        pytest.raises(ValueError, match="refused"),
        sending("t1", model="m", priority="high", tenant="a", parent=PARENT),
    ):
        raise ValueError("refused")
