"""`helm upgrade` under load."""

from testbed.history import check_client

from .release import Release, scripted_text
from .scripted_values import SCRIPT

WORDS = 2400
"""Two minutes, unless the upgrade takes longer than that."""


def test_a_stream_that_is_open_during_an_upgrade_resumes_and_ends(scripted: Release) -> None:
    cluster, components = scripted.cluster, [scripted.selector("api"), scripted.selector("worker")]
    before = {pod for component in components for pod in cluster.ready_pods(component)}
    reader = scripted.ask(SCRIPT, WORDS)
    reader.until_tokens(20)
    replaced = {"podAnnotations": {"k8s-test/upgrade": "1"}}
    scripted.upgrade({"api": replaced, "modelDefaults": replaced})
    history = reader.finish()
    check_client(history, scripted_text(WORDS))
    assert history.connections > 1, reader.story
    scripted.until_ready(SCRIPT)
    after = {pod for component in components for pod in cluster.ready_pods(component)}
    assert len(after) == 4
    assert not before & after
