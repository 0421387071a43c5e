"""A worker pod that goes away in the middle of an answer."""

import pytest

from testbed.history import check_client

from .release import Release, scripted_text
from .scripted_values import SCRIPT

WORDS = 600


@pytest.mark.parametrize("at_once", [False, True], ids=["deleted", "killed"])
def test_another_worker_goes_on_behind_the_last_token(scripted: Release, at_once: bool) -> None:
    reader = scripted.ask(SCRIPT, WORDS)
    reader.until_tokens(20)
    scripted.cluster.delete_pod(scripted.holder(reader.history), at_once=at_once)
    history = reader.finish()
    check_client(history, scripted_text(WORDS))
    assert reader.attempts == [1, 2], reader.story
    assert not any(one.data.get("restart") for one in history.seen), reader.story
