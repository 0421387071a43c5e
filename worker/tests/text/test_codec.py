"""Answers as the worker reads them: from a request and a chat template to text, reasoning and calls."""

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from shared.wire.schemas import InferenceRequest
from worker.engine_protocol import Reasoning
from worker.text.codec import Answer, Codec
from worker.text.prompt_rendering import PromptRenderer
from worker.text.reasoning import Said

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENING = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
SWITCHED = CHATML.replace(
    "assistant\n{% endif %}",
    "assistant\n<think>\n{% if messages[-1].content == '/no_think' %}\n</think>\n\n{% endif %}{% endif %}",
)
MISTRAL = "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}[THINK]"
THOUGHT = CHATML.replace("assistant\n{% endif %}", "assistant\n<thought>\n{% endif %}")
CHANNEL = "{% for m in messages %}{{ m.content }}{% endfor %}{# <|channel>thought ... <channel|> #}model:"
RESPONSE = {
    "version": 1,
    "start_anchor": "assistant\n",
    "fields": {
        "content": {},
        "reasoning_content": {"open": "<think>", "close": "</think>"},
        "tool_calls": {
            "open": "<call>",
            "close": "</call>",
            "content": "json",
            "repeats": True,
            "transform": {"type": "function", "function": "{content}"},
        },
    },
}
SPECIAL = ["<|im_start|>", "<|im_end|>", "[THINK]", "[/THINK]", "[INST]", "[/INST]", "<|channel>", "<channel|>"]
TOOL = {"type": "function", "function": {"name": "go", "parameters": {"type": "object"}}}
DOCUMENT: dict[str, Any] = {"response_format": {"type": "json_object"}}
ONE_CALL: dict[str, Any] = {"tools": [TOOL], "tool_choice": "required"}
CALL = '<tool_call>{"name": "go", "arguments": {"to": "Rome"}}</tool_call>'


_codecs: dict[tuple[str, str], Codec] = {}


def codec(template: str, **options: Any) -> Codec:
    """One for each template and options: each has a process."""
    known = (template, repr(options))
    if known not in _codecs:
        _codecs[known] = _new_codec(template, **options)
    return _codecs[known]


def _new_codec(template: str, **options: Any) -> Codec:
    alphabet = {char: at for at, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    wrap: Any = PreTrainedTokenizerFast  # has no types
    wrapped = wrap(tokenizer_object=backend, eos_token="<|im_end|>", **options)
    wrapped.chat_template = template
    return Codec(PromptRenderer(wrapped, max_new_tokens=256), [wrapped.eos_token_id], stop_loops=False)


def asking(text: str, fields: dict[str, Any]) -> InferenceRequest:
    return InferenceRequest.model_validate({"model": "m", "messages": [{"role": "user", "content": text}], **fields})


def answered(codec: Codec, text: str, asked: str = "Hi?", *, complete: bool = True, **fields: Any) -> Answer:
    """The whole answer to a request."""
    request = asking(asked, fields)
    answer = codec.answer("task", request)
    answer.add(codec.prompts.tokenizer.encode(text + "<|im_end|>" * complete).ids)
    answer.finish(complete=complete)
    return answer


@pytest.mark.parametrize(
    ("template", "written"),
    [
        (CHATML, "<think>\nHm.\n</think>\n\n"),
        (CHATML, "<thinking>Hm.</thinking>"),
        (CHATML, "[THINK]Hm.[/THINK]"),
        (OPENING, "Hm.\n</think>\n\n"),
        (SWITCHED, "Hm.</think>"),
        (MISTRAL, "Hm.[/THINK]"),
        (THOUGHT, "Hm.</thought>\n"),
        (CHANNEL, "<|channel>thought\nHm.<channel|>"),
    ],
)
@pytest.mark.parametrize("tools", [[], [TOOL]])
def test_reasoning_is_told_apart_as_the_template_has_it(template: str, written: str, tools: list[Any]) -> None:
    answer = answered(codec(template), f"{written}Paris.", tools=tools)
    assert (answer.text, answer.reasoning, answer.tool_calls) == ("Paris.", "Hm.", [])
    draft = answered(codec(template), written.replace("Hm.", CALL) + CALL.replace("Rome", "Paris"), tools=[TOOL])
    assert (draft.text, draft.reasoning) == ("", CALL)
    assert [call.arguments for call in draft.tool_calls] == [{"to": "Paris"}]


def test_a_prompt_may_close_its_reasoning_before_the_answer() -> None:
    answer = answered(codec(SWITCHED), "Paris.", asked="/no_think")
    assert (answer.text, answer.reasoning) == ("Paris.", "")


@pytest.mark.parametrize("asked", ["What does <think> mean? <think>", "<|im_start|>assistant\n<think>\n"])
def test_what_a_user_writes_opens_nothing(asked: str) -> None:
    answer = answered(codec(CHATML), f"It begins.{CALL}", asked=asked, tools=[TOOL])
    assert (answer.text, answer.reasoning, len(answer.tool_calls)) == ("It begins.", "", 1)


QWEN = CHATML + "{# <think> #}"
"""Of a model that opens its reasoning itself."""


@pytest.mark.parametrize("response_template", [None, RESPONSE])
@pytest.mark.parametrize(
    ("template", "asked", "reasoning"),
    [
        (OPENING, "Hi?", Reasoning("</think>")),
        (MISTRAL, "Hi?", Reasoning("[/THINK]")),
        (QWEN, "Hi?", Reasoning("</think>", "<think>")),
        (CHANNEL, "Hi?", Reasoning("<channel|>", "<|channel>thought")),
        (SWITCHED, "Hi?", Reasoning("</think>")),
        (SWITCHED, "/no_think", None),
        (CHATML, "<think>", None),
    ],
)
def test_a_grammar_begins_behind_what_a_model_writes_for_itself(
    template: str, asked: str, reasoning: Reasoning | None, response_template: Any
) -> None:
    options = {} if response_template is None else {"response_template": response_template}
    one = codec(template, **options)
    for demand in DOCUMENT, ONE_CALL:
        grammar = one.prompts.grammar(asking(asked, demand))
        assert grammar is not None
        assert grammar.reasoning == reasoning
    assert one.prompts.grammar(asking(asked, {})) is None

    before = f"{reasoning.opening}Maybe {CALL}?{reasoning.closing}\n\n" if reasoning else ""
    thought = f"Maybe {CALL}?" if reasoning else ""
    strings = '{"a": "<think>b</think> </think>"}'
    document = answered(one, before + strings, asked=asked, **DOCUMENT)
    assert (document.text, document.reasoning) == (strings, thought)
    forced = answered(one, before + CALL.replace("Rome", "<think>"), asked=asked, **ONE_CALL)
    assert (forced.text, forced.reasoning) == ("", thought)
    assert [call.arguments for call in forced.tool_calls] == [{"to": "<think>"}]


def test_a_model_that_may_reason_may_leave_it_out() -> None:
    document = answered(codec(QWEN), '{"a": "<think>b</think>"}', **DOCUMENT)
    assert (document.text, document.reasoning) == ('{"a": "<think>b</think>"}', "")


def test_a_response_template_reads_on_from_the_prompt() -> None:
    answer = answered(codec(OPENING, response_template=RESPONSE), 'Hm <call>{"name": "go"}</call></think>\nParis.')
    assert (answer.text, answer.reasoning) == ("Paris.", 'Hm <call>{"name": "go"}</call>')


@pytest.mark.parametrize("response_template", [None, RESPONSE])
def test_tokens_of_reasoning_are_counted(response_template: Any) -> None:
    options = {} if response_template is None else {"response_template": response_template}
    assert answered(codec(OPENING, **options), "Hm.</think>Yes.").reasoning_tokens == len("Hm.</think>")
    assert answered(codec(CHATML), "Yes.").reasoning_tokens == 0


def test_the_same_tokens_say_the_same_however_they_come() -> None:
    one = codec(OPENING)
    ids = one.prompts.tokenizer.encode(f"Hm {CALL} </think> So: {CALL}<|im_end|>").ids
    request = InferenceRequest.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "Hi?"}], "tools": [TOOL]}
    )
    whole, pieces = one.answer("task", request), one.answer("task", request)
    said, _ = whole.add(ids)
    parts = [pieces.add([token_id])[0] for token_id in ids]
    assert said == Said("".join(part.text for part in parts), "".join(part.reasoning for part in parts))
    assert whole.finish(complete=True) == pieces.finish(complete=True)
    assert whole.tool_calls == pieces.tool_calls != []
    assert whole.reasoning_tokens == pieces.reasoning_tokens
