import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.text.json_text import NotJson, one_value, plain, values_in

NEARLY = {
    "{'a': 'b', 'c': ['d']}": {"a": "b", "c": ["d"]},
    '{"a": True, "b": False, "c": None}': {"a": True, "b": False, "c": None},
    '{"a": [1, 2,], "b": 3,}': {"a": [1, 2], "b": 3},
    '{"a": {"b": [1, 2': {"a": {"b": [1, 2]}},
    '{"a": {"b": "c"': {"a": {"b": "c"}},
    '{"a": {': {"a": {}},
    '{"a": 1}}]}': {"a": 1},
    "{'a': \"it's\"}": {"a": "it's"},
    "{'a': 'it\\'s \"so\"'}": {"a": 'it\'s "so"'},
    '{"a": "it\\\'s"}': {"a": "it's"},
    "{'a': 'one\ntwo\t\\u00e9\\n'}": {"a": "one\ntwo\té\n"},
}


@pytest.mark.parametrize("text", NEARLY)
def test_nearly_json_is_read_where_its_meaning_is_not_in_doubt(text: str) -> None:
    assert values_in(text, repair=True) == [NEARLY[text]]
    with pytest.raises(NotJson):
        values_in(text, repair=False)


@pytest.mark.parametrize(
    "text",
    [
        '{"command": "search 65", tv", "path": "x"}',
        '{"command": "search 65 inch" tv", "path": "x"}',
        '{"command": "echo "hello"", "path": "x"}',
        '{"command": "echo \\"a" b", "path": "x"}',
        '{"command": "ls, "path": "x"}',
        '{"command: "ls"}',
        "{'command': 'it's'}",
        "{'command': 'don't', 'path': 'won't'}",
        '{"command": ls}',
        '{command: "ls"}',
        '{"command": “ls”}',
        '{"command": "ls" "path": "x"}',
        '{"command": "ls"; "path": "x"}',
        '{"command" "ls"}',
        '{"command": ["ls", "x"}',
        '{"command": "grep \\d"}',
        '{"command": "ls", "command": "rm"}',
        "{'command': 'ls', \"command\": 'rm'}",
        '{"command": "ls',
        '{"command": "ls",',
        '{"command": ',
        '{"command"',
        '{"command": "ls", "more": [1, {',
        '{"command": "ls", "more": [[',
        '{"command": tru',
        '{"command": 007}',
        '{"command": NaN}',
        '{"command": /* nothing */ "ls"}',
        "{,}",
        "[,]",
        "print(1)",
    ],
)
def test_where_something_would_have_to_be_guessed_it_is_no_json(text: str) -> None:
    with pytest.raises(NotJson):
        values_in(text, repair=True)


def test_several_values_are_read_and_lists_flattened() -> None:
    assert values_in('{"a": 1}; {"b": 2}, [{"c": 3}, 4]\n', repair=False) == [{"a": 1}, {"b": 2}, {"c": 3}, 4]
    assert values_in("{'a': 1} {\"b\": 2}", repair=True) == [{"a": 1}, {"b": 2}]
    assert values_in(" ", repair=True) == []


def test_numbers_keep_how_they_were_written_until_they_are_made_plain() -> None:
    value = one_value('{"a": [1.10, 1e2, 7]}')
    assert value == {"a": [Decimal("1.10"), Decimal(100), 7]}
    assert str(value["a"][0]) == "1.10"
    assert repr(plain(value)) == "{'a': [1.1, 100.0, 7]}"


@pytest.mark.parametrize("text", ["1e999", "[-1e400]", '{"a": 1e-999}', "1e99999999999999999999", "9" * 10_000])
def test_numbers_that_a_double_cannot_hold_are_none(text: str) -> None:
    with pytest.raises(NotJson):
        plain(one_value(text))


@pytest.mark.parametrize("opening", ["[", '{"a": ', "{'a': ", '[{"a": '])
def test_deep_nesting_is_no_json(opening: str) -> None:
    for text in (opening * 10_000, opening * 10_000 + "1"):
        with pytest.raises(NotJson):
            values_in(text, repair=True)
    with pytest.raises(NotJson):
        plain(one_value("[" * 200 + "]" * 200))


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
).map(lambda inner: {"x": inner})


@given(documents)
def test_what_python_writes_is_read_as_it_was(document: dict[str, Any]) -> None:
    assert values_in(json.dumps(document), repair=False) == [document]
    assert values_in(json.dumps(document, ensure_ascii=False), repair=True) == [document]


@given(documents, st.data())
def test_what_lacks_only_brackets_at_the_end_gets_nothing_else(document: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(document)
    cut = text.rstrip("]}")
    keep = data.draw(st.integers(len(cut), len(text)))
    try:
        (read,) = values_in(text[:keep], repair=True)
    except NotJson:
        return  # it ended in a bracket that opens, or in a text with brackets
    assert read == document
