"""The JSON of a body; what it may hold is tested with the parser."""

import pytest

from api.errors import ParseError
from api.json_body import LARGE_BYTES, parsed


@pytest.mark.parametrize("padding", [0, LARGE_BYTES], ids=["here", "in a thread"])
async def test_a_body_is_read_and_a_byte_order_mark_before_it_skipped(padding: int) -> None:
    body = b"\xef\xbb\xbf" + b" " * padding + b'{"a": [1, null]}'
    assert await parsed(body) == {"a": [1, None]}


@pytest.mark.parametrize("padding", [0, LARGE_BYTES], ids=["here", "in a thread"])
@pytest.mark.parametrize("body", [b"", b"{", b"NaN", b"\xff", b"[" * 1000])
async def test_what_cannot_be_read_says_so_in_few_words(body: bytes, padding: int) -> None:
    with pytest.raises(ParseError) as refused:
        await parsed(b" " * padding + body)
    assert refused.value.message.startswith("the body cannot be read as JSON: ")
    assert len(refused.value.message) < 300
