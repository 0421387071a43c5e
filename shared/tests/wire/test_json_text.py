"""JSON text of others, and what it may cost."""

import json
import re
import time
from contextlib import suppress

import pytest

from shared.wire.json_text import HALF_PAIR, MAX_VALUES, OUT_OF_RANGE, parse_json

MEGABYTES = 4


def repeated(unit: bytes) -> bytes:
    return unit * (MEGABYTES * 2**20 // len(unit))


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5, 1e308, true, null, "\\ud83d\\ude00 \\"quoted\\" \\\\"]}',
        "1.7976931348623157e308",
        "-" + "9" * 308,
        "1e-400",
        "0." + "1" * 5000,
        '"1e999 and ' + "9" * 5000 + '"',
    ],
)
def test_what_is_json_is_read_as_json_reads_it(text: str) -> None:
    assert parse_json(text) == json.loads(text)
    assert parse_json(text.encode()) == json.loads(text)


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "1e309", "9" * 310, "9" * 4000, "-" + "9" * 310, "9" * 310 + ".5"]
)
@pytest.mark.parametrize("place", ["%s", "[1, %s]", '{"a": {"b": [[%s]]}}'])
def test_a_number_beyond_a_double_is_refused_wherever_it_stands(number: str, place: str) -> None:
    with pytest.raises(ValueError, match="out of range"):
        parse_json(place % number)


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "-Infinity", "", "[", "01", '"\\ud83d"', '"\ud83d"', "{'a': 1}", "9" * 5000]
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_json(text)


@pytest.mark.parametrize(
    "member", [b"1", b"[]", b"{}", b'"a"', b'{"a":1}', b'"\\""', b'"\\\\"', b'",[{"'], ids=lambda member: str(member)
)
def test_as_many_values_as_are_allowed_are_read_and_one_more_is_refused(member: bytes) -> None:
    inside = sum(member in (b"[]", b"{}", b'{"a":1}') for _ in "x")
    count = MAX_VALUES // (1 + inside)
    parse_json(b"[" + b",".join([member] * count) + b"]")
    with pytest.raises(ValueError, match=f"more than {MAX_VALUES} values"):
        parse_json(b"[" + b",".join([member] * (count + 1)) + b"]")


def test_commas_and_brackets_inside_of_strings_are_no_values() -> None:
    text = '[{"a": 1}, "quoted \\" and \\\\", {}]' * 100_000
    assert parse_json(json.dumps([text, text])) == [text, text]


PLAIN = b'["' + repeated(b"some words ") + b'"]'
ODD = {
    "zeros behind each e": b'["' + repeated(b"e" + b"0" * 300) + b'"]',
    "zeros behind one e": b'["e' + repeated(b"0") + b'"]',
    "an exponent of zeros": b"[1e" + repeated(b"0") + b"1]",
    "digits, nearly too many": b'["' + repeated(b"9" * 308 + b"x") + b'"]',
    "integers of 4,300 digits": b"[" + repeated(b"9" * 4300 + b",") + b"1]",
    "integers of 300 digits": b"[" + repeated(b"9" * 300 + b",") + b"1]",
    "one integer of all digits": b"[" + repeated(b"9") + b"]",
    "one fraction of all digits": b"[1." + repeated(b"9") + b"]",
    "escapes": b'["' + repeated(b"\\u0041") + b'"]',
    "escaped quotes": b'["' + repeated(b'\\"') + b'"]',
    "backslashes": b'["' + repeated(b"\\\\") + b'"]',
    "quotes": repeated(b'"'),
    "empty strings": b"[" + repeated(b'"",') + b"1]",
    "empty lists": b"[" + repeated(b"[],") + b"1]",
    "empty objects": b"[" + repeated(b"{},") + b"1]",
    "open lists": repeated(b"["),
    "names": b"{" + repeated(b'"a":1,') + b'"a":1}',
    "numbers": b"[" + repeated(b"1,") + b"1]",
    "spaces": repeated(b" "),
}


@pytest.mark.parametrize("odd", ODD)
def test_no_text_costs_much_more_than_plain_text_of_its_length(odd: str) -> None:
    def cost(body: bytes) -> float:
        """Seconds of CPU, other threads and processes left out."""
        began = time.thread_time()
        with suppress(ValueError):
            parse_json(body)
        return time.thread_time() - began

    plain = min(cost(PLAIN) for _ in range(3))
    assert min(cost(ODD[odd]) for _ in range(3)) < 20 * plain


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (
            rb'{"a": [{"b": "x \ud83d y"}]}',
            f"{HALF_PAIR} (in a[0].b, line 1 column ",
        ),
        (rb'{"a": [1, "\ude00"]}', f"{HALF_PAIR} (in a[1], line 1 column "),
        (rb'{"a": "\ud83d\ud83d"}', f"{HALF_PAIR} (in a, line 1 column "),
        (rb'{"a": "\\\ud83d"}', f"{HALF_PAIR} (in a, line 1 column "),
        (rb'{"a": 1, "b\ud83d": 2}', f"{HALF_PAIR} (in b, line 1 column "),
        (rb'"\ud83d"', f"{HALF_PAIR} (line 1 column 8)"),
        (b'{"a":\n{"b": "x \xff"}}', "not UTF-8 (in a.b, line 2 column 10)"),
        (b'{"a": "\xed\xa0\xbd"}', "not UTF-8 (in a, line 1 column 8)"),
        (b'{"a": {"b": ' + b"[" * 300, "nested too deeply, beyond 200 levels (in a.b"),
        (b"[" * 300, "nested too deeply, beyond 200 levels (in [0][0]"),
        (b'{"a": [1, {"b": 1e999}]}', f"{OUT_OF_RANGE} (in a[1].b)"),
        (b'{"a": [1, ' + b"9" * 5000 + b"]}", f"{OUT_OF_RANGE} (in a[1], line 1 column "),
        (b'{"a": [1, {"b": NaN}]}', "NaN is not JSON (in a[1].b)"),
        (b'{"a": [1, {"b": ]}', "expected value at line 1 column 17"),
        (
            b'{"' + b"k" * 10_000 + rb'": "\ud83d"}',
            f"{HALF_PAIR} (in kkkkkkkk",
        ),
    ],
    ids=range(15),
)
def test_what_is_no_json_is_refused_with_its_place(text: bytes, error: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(error)):
        parse_json(text)
