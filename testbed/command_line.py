"""The command `headrace`, in this process."""

import pytest

from headrace.cli import main


def exit_code(*arguments: str) -> int:
    """Of the command with these arguments; what it prints is the test's to capture."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)
