"""Two API replicas: a stream that one of them served goes on at the other."""

import pytest

from testbed.history import check_client

from .release import Release, scripted_text
from .scripted_values import SCRIPT

WORDS = 600
"""Half a minute."""


@pytest.mark.parametrize("at_once", [False, True], ids=["deleted", "killed"])
def test_the_client_of_a_lost_api_pod_resumes_at_the_other_one(scripted: Release, at_once: bool) -> None:
    reader = scripted.ask(SCRIPT, WORDS)
    reader.until_tokens(20)
    first = reader.history.seen[-1].replica
    scripted.cluster.delete_pod(scripted.doors.pod_of(first), at_once=at_once)
    history = reader.finish()
    check_client(history, scripted_text(WORDS))
    assert len({one.replica for one in history.seen}) > 1, reader.story
    assert reader.attempts == [1], reader.story
