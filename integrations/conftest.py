"""One stack with the packaged model for all programs; its replies are judged behind each of them."""

from collections.abc import Iterator

import pytest

from testbed.judged_app import JudgedApp
from testbed.model_stack import model_stack


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, JudgedApp]]:
    with model_stack(tmp_path_factory.mktemp("stack")) as running:
        yield running


@pytest.fixture
def url(stack: tuple[str, JudgedApp]) -> Iterator[str]:
    """The API's address."""
    address, judged = stack
    yield address
    judged.check()
