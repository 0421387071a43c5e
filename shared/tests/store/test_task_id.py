from shared.store.task_id import new_task_id, task_id_time


def test_a_task_id_tells_when_it_was_made() -> None:
    first, second = new_task_id(), new_task_id()
    assert first != second
    assert task_id_time(first) is not None
    assert task_id_time("0b8fcd3a-7d0b-4a9f-9d0c-0d7a2b0c9f11") is None  # version 4
    assert task_id_time("nonsense") is None
