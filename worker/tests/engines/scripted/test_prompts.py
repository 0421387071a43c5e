"""Text and tokens of the scripted engine."""

from typing import Any

from shared.wire.schemas import InferenceRequest
from worker.engines.scripted.prompts import ScriptedPrompts
from worker.engines.scripted.script import EOS, FIRST_BYTE, FIRST_WORD, LAST_USER, WORDS


def prompt(*messages: tuple[str, str]) -> str:
    said: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in messages]
    ids = ScriptedPrompts().prompt_ids(InferenceRequest.model_validate({"model": "m", "messages": said}))
    return bytes(token - FIRST_BYTE for token in ids).decode()


def test_every_token_has_a_text() -> None:
    tokenizer = ScriptedPrompts().tokenizer
    assert tokenizer.decode([FIRST_BYTE + byte for byte in "Grüße".encode()]) == "Grüße"
    assert tokenizer.decode([FIRST_WORD + at for at in range(len(WORDS))]) == "".join(WORDS)
    assert tokenizer.decode([EOS]) == ""


def test_a_conversation_is_a_line_for_each_message() -> None:
    assert prompt(("user", "hello")) == f"user: {LAST_USER}hello"
    assert prompt(("system", "Be brief."), ("user", "hello")) == f"system: Be brief.\nuser: {LAST_USER}hello"


def test_the_last_user_message_stands_last() -> None:
    text = prompt(("user", "one"), ("assistant", "two"), ("user", "!say three"), ("assistant", "four"))
    assert text == f"user: one\nassistant: two\nassistant: four\nuser: {LAST_USER * 2}!say three"
