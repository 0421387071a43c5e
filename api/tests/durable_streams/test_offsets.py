"""Offsets and cursors of Durable Streams."""

import pytest

from api.durable_streams.offsets import cursor_behind, entry_at, offset_of
from api.errors import InvalidParams
from shared.store.event_stream import CLOSED, START, EntryId


def test_offsets_sort_as_texts_as_their_entries_do() -> None:
    entries = [EntryId(0, 1), EntryId(1, 0), EntryId(1, 9), EntryId(1, 10), EntryId(1, CLOSED + 3), EntryId(10, 2)]
    offsets = [offset_of(entry) for entry in entries]
    assert offsets == sorted(offsets)
    assert [entry_at(offset) for offset in offsets] == entries
    assert entry_at("-1") == START


@pytest.mark.parametrize(
    "offset", ["", "1-2", "0", "-2", "NOW", "0000000001_0000000002_", "\u0660000000001_0000000002"]
)
def test_what_this_server_never_gave_is_no_offset(offset: str) -> None:
    with pytest.raises(InvalidParams):
        entry_at(offset)


def test_a_cursor_never_comes_back() -> None:
    first = cursor_behind(None)
    ahead = cursor_behind(str(int(first) + 5))
    assert int(ahead) > int(first) + 5
    assert int(cursor_behind(ahead)) > int(ahead)
    assert cursor_behind("1") == cursor_behind("no number") == cursor_behind("9" * 99)
