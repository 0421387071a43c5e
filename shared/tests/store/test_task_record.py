"""What the ledger's hash says, as a record."""

import pytest

from shared.store.task_record import Claim, Load, TaskRecord, parse_record

FIELDS = {
    "v": "1", "model": "m", "tenant": "t", "priority": "normal", "request": '{"model": "m"}', "state": "running",
    "wire": "STARTED", "attempt": "2", "crashes": "0", "losses": "1", "accepted_at": "1000", "deadline": "61000",
}  # fmt: skip


def record(**fields: str) -> TaskRecord:
    return parse_record("t1", {name.encode(): value.encode() for name, value in (FIELDS | fields).items()})


def test_a_record_is_read_from_bytes() -> None:
    running = record(started_at="2000", context="00-a-b-01", cancel_on_disconnect="1")
    assert (running.task_id, running.version, running.state, running.wire_state) == ("t1", 1, "running", "STARTED")
    assert (running.attempt, running.accepted_at, running.deadline, running.started_at) == (2, 1000, 61000, 2000)
    assert running.request == b'{"model": "m"}'
    assert running.cancel_on_disconnect
    assert running.context == "00-a-b-01"


def test_what_is_not_there_yet_is_none_or_empty() -> None:
    waiting = record(cancel_on_disconnect="0")
    assert (waiting.started_at, waiting.ended_at, waiting.redraws) == (None, None, 0)
    assert waiting.outcome == b""
    assert (waiting.context, waiting.attempt_context, waiting.cancel_on_disconnect) == ("", "", False)


@pytest.mark.parametrize("broken", [{"attempt": "many"}, {"v": ""}, {"accepted_at": ""}])
def test_a_record_that_cannot_be_read_raises(broken: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        record(**broken)


@pytest.mark.parametrize(
    ("crashes", "losses", "suspect"), [("0", "0", False), ("0", "1", False), ("0", "2", True), ("1", "0", True)]
)
def test_a_task_that_may_have_killed_an_engine_is_suspect(crashes: str, losses: str, suspect: bool) -> None:
    claim = Claim(record(crashes=crashes, losses=losses), attempt=3, claimed_at=0, restart=False)
    assert claim.suspect is suspect


def test_work_is_what_waits_and_what_runs() -> None:
    assert Load(waiting=3, running=2, mean_seconds=None).work == 5
