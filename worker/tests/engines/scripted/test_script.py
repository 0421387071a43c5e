"""The answers of the scripted engine."""

import dataclasses

import pytest

from worker.engine_protocol import Generate, SamplingDefaults
from worker.engines.scripted.script import EOS, FIRST_BYTE, FIRST_WORD, LAST_USER, WORDS, Script, ScriptedAnswer

SCRIPT = Script.parse("scripted:?tokens=5")


def generate(text: str, *, seed: int = 0, **fields: int | float) -> Generate:
    prompt = tuple(FIRST_BYTE + byte for byte in f"user: before\n{LAST_USER}{text}".encode())
    return dataclasses.replace(Generate("r", prompt, max_new_tokens=100, seed=seed), **fields)  # type: ignore[arg-type]


def tokens(request: Generate, script: Script = SCRIPT) -> list[int]:
    """Up to its end."""
    answer, found = ScriptedAnswer.of(request, script), [-1]
    while found[-1] != EOS:
        found.append(answer.next_token())
        answer.index += 1
    return found[1:]


def said(request: Generate) -> str:
    return bytes(token - FIRST_BYTE for token in tokens(request)[:-1]).decode()


def test_a_source_is_read_as_its_options() -> None:
    script = Script.parse("scripted:?token_ms=20&context=100&tokens=7&temperature=0.7&top_k=20")
    assert (script.token_ms, script.context, script.tokens) == (20.0, 100, 7)
    assert script.sampling == SamplingDefaults(temperature=0.7, top_p=1.0, top_k=20)
    assert Script.parse("scripted:") == Script.parse("scripted:?token_ms=5&context=8192&tokens=32")


@pytest.mark.parametrize(("source", "named"), [("scripted:?speed=1", "speed"), ("scripted:?tokens=many", "many")])
def test_an_unknown_option_or_a_value_that_is_no_number_is_refused(source: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Script.parse(source)


def test_an_answer_has_as_many_words_as_the_script_or_its_request_says() -> None:
    answer = tokens(generate("hello"))
    assert (len(answer), answer[-1]) == (5 + 1, EOS)
    assert all(FIRST_WORD <= token < FIRST_WORD + len(WORDS) for token in answer[:-1])
    assert len(tokens(generate("hello\n!tokens 9"))) == 9 + 1


def test_a_token_depends_on_seed_or_prompt_and_place_alone() -> None:
    assert tokens(generate("hello")) == tokens(generate("hello")) != tokens(generate("good morning"))
    assert tokens(generate("hello", seed=7)) == tokens(generate("good morning", seed=7)) != tokens(generate("hello"))
    whole = tokens(generate("hello"))
    taken_over = dataclasses.replace(generate("hello"), generated_ids=tuple(whole[:3]))
    assert tokens(taken_over) == whole[3:]


def test_it_says_what_its_seed_draws() -> None:
    drawn = [said(generate('!draw ["[1]", "a | b"]\n!slow 1', seed=seed)) for seed in (2, 3)]
    assert drawn == ["[1]", "a | b"]


def test_it_says_what_its_round_is_for() -> None:
    texts = [said(generate(f"{LAST_USER * count}!rounds " + '["call", "done"]')) for count in (0, 1, 2)]
    assert texts == ["call", "done", "done"]


def test_it_says_what_it_is_told_to_say() -> None:
    assert said(generate("!say Grüße\nand more")) == "Grüße\nand more"
    sampled = generate("!sampling", temperature=0.5, top_p=0.9, top_k=3)
    assert said(sampled) == "0.5 0.9 3"


def test_directives_of_earlier_messages_do_not_count() -> None:
    earlier = tuple(FIRST_BYTE + byte for byte in f"user: !crash 1\n{LAST_USER}hello".encode())
    answer = ScriptedAnswer.of(Generate("r", earlier, max_new_tokens=100), SCRIPT)
    assert answer.directives == {}


def test_a_fault_comes_at_its_token() -> None:
    answer = ScriptedAnswer.of(generate("!crash 2\n!hang"), SCRIPT)
    assert answer.at("hang")
    assert not answer.at("crash")
    answer.index = 2
    assert answer.at("crash")
    assert not answer.at("hang")
