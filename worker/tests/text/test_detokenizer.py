import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from worker.text.detokenizer import Detokenizer, RepetitionDetector, skipped_ids

CORPUS = ["the cat sat on the mat", "größer 漢字 🏳️‍🌈 naïve café", '{"name": "get_weather", "arguments": {}}']


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    tokenizer.add_special_tokens(["<eos>", "[TOOL_CALLS]"])
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
    return tokenizer


def sentence_piece() -> Tokenizer:
    """Llama 2's kind: words carry their leading space, unknown characters are bytes."""
    words = ["▁the", "▁cat", "▁sat", "s", "▁", "."]
    vocabulary = {word: at for at, word in enumerate(["<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *words])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


BYTE_LEVEL = byte_level()
SENTENCE_PIECE = sentence_piece()
SKIP = skipped_ids(BYTE_LEVEL)
token_ids = st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 1), max_size=60)


def ids_of(tokenizer: Tokenizer, *tokens: str) -> list[int]:
    ids = [tokenizer.token_to_id(token) for token in tokens]
    return [token_id for token_id in ids if token_id is not None]


def whole(tokenizer: Tokenizer, ids: list[int], stop: tuple[str, ...] = ()) -> str:
    detokenizer = Detokenizer(tokenizer, stop, skipped_ids(tokenizer))
    return detokenizer.add(ids) + detokenizer.finish()


@given(token_ids)
def test_the_deltas_of_any_tokens_add_up_to_what_the_tokenizer_decodes(ids: list[int]) -> None:
    expected = BYTE_LEVEL.decode([at for at in ids if at not in SKIP], skip_special_tokens=False)
    assert whole(BYTE_LEVEL, ids) == expected


@given(st.text(alphabet="ab 漢é🌈\n", max_size=30), st.data())
def test_the_text_does_not_depend_on_how_the_ids_are_grouped(text: str, data: st.DataObject) -> None:
    ids = BYTE_LEVEL.encode(text).ids
    stop = ("b ", "漢a", "ab漢")
    one = Detokenizer(BYTE_LEVEL, stop, SKIP)
    first = "".join([one.add([token_id]) for token_id in ids]) + one.finish()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(ids)), max_size=5)))
    other = Detokenizer(BYTE_LEVEL, stop, SKIP)
    second = "".join([other.add(ids[a:b]) for a, b in itertools.pairwise([0, *cuts, len(ids)])]) + other.finish()
    assert first == second == one.text == other.text
    assert one.stopped == other.stopped
    ends = {at + len(stop_text): at for stop_text in reversed(stop) if (at := text.find(stop_text)) >= 0}
    assert first == (text[: ends[min(ends)]] if ends else text)


@given(st.lists(st.integers(1, SENTENCE_PIECE.get_vocab_size() - 1), max_size=40))
def test_sentencepiece_bytes_never_break_the_stream(ids: list[int]) -> None:
    detokenizer = Detokenizer(SENTENCE_PIECE)
    text = "".join([detokenizer.add([token_id]) for token_id in ids]) + detokenizer.finish()
    assert text == whole(SENTENCE_PIECE, ids)


def test_sentencepiece_keeps_the_spaces_between_words_and_drops_the_first_one() -> None:
    words = ids_of(SENTENCE_PIECE, "<s>", "▁the", "▁cat", "s", "<s>", "▁sat", ".")
    assert whole(SENTENCE_PIECE, words) == "the cats sat."
    fallback = ids_of(SENTENCE_PIECE, "▁the", "▁", "<0xE6>", "<0xBC>", "<0xA2>", ".")
    assert whole(SENTENCE_PIECE, fallback) == "the 漢."


def test_half_a_character_is_held_back_and_shown_as_a_replacement_only_at_the_end() -> None:
    *start, last = BYTE_LEVEL.encode("🤖").ids
    detokenizer = Detokenizer(BYTE_LEVEL)
    assert detokenizer.add(start) == ""
    assert detokenizer.add([last]) == "🤖"
    cut = Detokenizer(BYTE_LEVEL)
    assert cut.add(start) == ""
    assert cut.finish() == "\N{REPLACEMENT CHARACTER}"


def test_the_start_of_a_stop_string_is_held_back_until_it_is_none() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, ["mat!"])
    assert detokenizer.add(BYTE_LEVEL.encode("on the ma").ids) == "on the "
    assert detokenizer.add(BYTE_LEVEL.encode("p").ids) == "map"
    assert detokenizer.add(BYTE_LEVEL.encode(" mat").ids) == " "
    assert detokenizer.finish() == "mat"
    assert detokenizer.stopped is None


def test_the_text_ends_before_the_stop_string_and_nothing_follows() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, ["mat"])
    assert detokenizer.add(BYTE_LEVEL.encode("the mat sat").ids) == "the "
    assert detokenizer.stopped == "mat"
    assert detokenizer.add(BYTE_LEVEL.encode("more").ids) == ""
    assert detokenizer.finish() == ""
    assert detokenizer.text == "the "


def test_a_stop_string_inside_undecided_bytes_is_noticed_at_the_end() -> None:
    detokenizer = Detokenizer(BYTE_LEVEL, ["\N{REPLACEMENT CHARACTER}"])
    detokenizer.add(BYTE_LEVEL.encode("a🤖").ids[:-1])
    assert detokenizer.finish() == ""
    assert detokenizer.stopped == "\N{REPLACEMENT CHARACTER}"
    assert detokenizer.text == "a"


def test_special_tokens_are_no_text_unless_they_mark_tool_calls() -> None:
    ids = ids_of(BYTE_LEVEL, "[TOOL_CALLS]", "<tool_call>", "<eos>")
    assert whole(BYTE_LEVEL, ids) == "<tool_call>"
    kept = Detokenizer(BYTE_LEVEL, skip=skipped_ids(BYTE_LEVEL, ["[TOOL_CALLS]"]))
    assert kept.add(ids) == "[TOOL_CALLS]<tool_call>"


@pytest.mark.parametrize("period", [1, 2, 7, 33, 64])
def test_a_cycle_is_noticed_whatever_stands_before_it(period: int) -> None:
    detector = RepetitionDetector()
    assert not detector.add(range(1_000, 1_100))
    ids = list(range(period)) * (400 // period + 1)
    assert detector.add(ids)
    assert detector.period == period


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(1, 10))
def test_the_detector_does_not_depend_on_how_the_ids_are_grouped(ids: list[int], size: int) -> None:
    one, other = RepetitionDetector(8, 16, 4), RepetitionDetector(8, 16, 4)
    one.add(ids)
    for start in range(0, len(ids), size):
        other.add(ids[start : start + size])
    assert one.period == other.period


HARMLESS = {
    "laughter": "ha " * 60,
    "a table": "".join(f"| {row} | 0 | 0 | 0 |\n" for row in range(60)),
    "the rule of a wide table": "| --- " * 40 + "|",
    "a line of dashes": "-" * 200,
    "a matrix of zeros": "[" + ", ".join(["[0, 0, 0, 0, 0, 0, 0, 0]"] * 8) + "]",
    "numbers": ", ".join(str(n) for n in range(400)),
    "a long list": "".join(f"- item number {n}: the cat sat on the mat\n" for n in range(80)),
    "code": "".join(f"    assert add({n}, {n}) == {2 * n}\n" for n in range(60)),
    "a song": ("Round and round it goes,\nwhere it stops nobody knows.\n" * 4 + "Next verse\n") * 5,
}


@pytest.mark.parametrize("what", HARMLESS)
def test_text_that_repeats_itself_for_a_reason_is_no_loop(what: str) -> None:
    assert not RepetitionDetector().add(BYTE_LEVEL.encode(HARMLESS[what]).ids)


def test_a_sentence_said_for_ever_is_a_loop() -> None:
    assert RepetitionDetector().add(BYTE_LEVEL.encode("I am sorry, I do not know that. " * 40).ids)
