"""Our frames are those of sse-starlette."""

import json

from sse_starlette import ServerSentEvent

from api.hub.frame import COMMENT, framed, frames_of, retry_in
from shared.store.event_stream import Entry, EntryId


def token(index: int, text: str) -> Entry:
    data = json.dumps({"type": "token", "taskId": "t", "text": text, "index": index}) if text else ""
    return Entry(EntryId(1, index), "token", data.encode(), (7,))


STATUS = Entry(EntryId(1, 0), "status", b'{"type":"status"}')


def test_an_event_is_framed_as_sse_starlette_does() -> None:
    data = '{"text":"\\n \u2028 \u00e9"}'
    reference = ServerSentEvent(id="1-2", event="token", data=data, sep="\n").encode()
    assert framed(b"1-2", b"token", data.encode()).wire == reference


def test_a_comment_and_a_retry_are_framed_as_sse_starlette_does() -> None:
    assert ServerSentEvent(comment="", sep="\n").encode() == COMMENT
    assert retry_in(250) == ServerSentEvent(retry=250, sep="\n").encode()


def test_entries_without_text_have_no_frame() -> None:
    frames = frames_of([STATUS, token(1, "a"), token(2, ""), token(3, "b")], merge=False)
    assert [frame.id for frame in frames] == [b"1-0", b"1-1", b"1-3"]


def test_merged_tokens_are_one_event_with_the_id_and_index_of_the_last() -> None:
    entries = [token(1, "a"), token(2, "é"), STATUS, token(3, "c"), token(4, ""), token(5, "d")]
    frames = frames_of(entries, merge=True)
    assert [frame.id for frame in frames] == [b"1-2", b"1-0", b"1-5"]
    assert json.loads(frames[0].data) == {"type": "token", "taskId": "t", "text": "aé", "index": 2}
    assert "é".encode() in frames[0].wire


def test_merged_tokens_keep_their_reasoning() -> None:
    thoughts = [
        Entry(
            EntryId(1, index),
            "token",
            json.dumps({"type": "token", "text": "", "reasoning": text, "index": index}).encode(),
        )
        for index, text in enumerate(["Hm", ". "], start=1)
    ]
    (frame,) = frames_of([*thoughts, token(3, "Yes.")], merge=True)
    merged = json.loads(frame.data)
    assert (merged["text"], merged["reasoning"], merged["index"]) == ("Yes.", "Hm. ", 3)


def test_merged_tokens_keep_their_logprobs() -> None:
    said = [
        Entry(
            EntryId(1, at), "token", json.dumps({"type": "token", "text": "a", "index": at, "logprobs": [at]}).encode()
        )
        for at in (1, 2)
    ]
    (frame,) = frames_of([*said, token(3, "c")], merge=True)
    assert json.loads(frame.data)["logprobs"] == [1, 2]
