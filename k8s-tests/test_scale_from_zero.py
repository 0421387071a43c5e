"""What clients are told while no worker is there, and what an autoscaler reads meanwhile."""

import httpx

from headrace import Client
from testbed.history import check_client

from .cluster import until
from .release import Release, scripted_text
from .scripted_values import SCRIPT, WANTS_GPUS

ROOM = "headrace-test/room"
"""A label that no node has: a worker that may start at once is faster than the news of it."""


def test_a_task_that_waits_at_zero_workers_is_told_so_and_served_by_the_first_one(scripted: Release) -> None:
    cluster, worker = scripted.cluster, scripted.worker(SCRIPT)
    pods = f"{scripted.selector('worker')},headrace/model={SCRIPT}"
    cluster.scale(worker, 0)
    until(lambda: not cluster.pods(pods), 120, "no worker is left")
    try:
        reader = scripted.ask(SCRIPT, 40)
        reader.until_told("scaled to zero")
        assert _work(scripted) == 1  # what KEDA's trigger reads
        cluster.require_of_nodes(worker, {ROOM: "yes"})
        cluster.scale(worker, 1)
        reader.until_told("0 of 1 workers ready", "Unschedulable")
        cluster.require_of_nodes(worker, {ROOM: None})  # as if a node had come
        history = reader.finish()
        check_client(history, scripted_text(40))
        assert _work(scripted) == 0
    finally:
        cluster.require_of_nodes(worker, {ROOM: None})
        cluster.scale(worker, 2)


def _work(release: Release) -> int:
    url = release.doors.url(f"service/{release.api}-internal", 8001)
    return int(httpx.get(f"{url}/internal/scaling/{SCRIPT}", timeout=30).json()["work"])


def test_a_model_whose_gpus_no_node_has_says_so_to_its_clients(scripted: Release) -> None:
    reader = scripted.ask(WANTS_GPUS, 40)
    detail = reader.until_told("Unschedulable", "nvidia.com/gpu")
    assert detail.startswith("0 of 1 workers ready: Unschedulable: 0/")
    with Client(next(iter(scripted.doors))) as client:
        assert client.cancel(reader.history.task_id).cancelled
    history = reader.finish()
    check_client(history, "")
    assert history.state == "REVOKED"
