"""Enforced tool calls as Lark rules, in the form that the model writes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.text.call_regions import CLOSE, LISTED, OPEN
from worker.text.chat_tokenizer import ChatTokenizer
from worker.text.template_abilities import CallForm


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How the model writes calls, down to the tokens."""

    form: CallForm
    tokens: Mapping[str, int]
    """Markers that are tokens of their own: the grammar has to name those by id, their text never comes."""

    native: bool = True
    """Whether the model's own template knows tools."""

    def marker(self, text: str) -> str:
        """A marker as a Lark expression."""
        return f"<[{self.tokens[text]}]>" if text in self.tokens else json.dumps(text)


def call_syntax(tokenizer: ChatTokenizer, form: CallForm, *, native: bool) -> CallSyntax:
    """The syntax of calls in `form` with this tokenizer's tokens."""
    ids = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items()}
    return CallSyntax(form, {text: ids[text] for text in (OPEN, CLOSE, LISTED, "[ARGS]") if text in ids}, native)


def call_rules(arguments: Sequence[tuple[str, str]], syntax: CallSyntax, most: int) -> list[str]:
    """Rules for one to `most` calls, of which the first is `calls`; `arguments`: tools and the rules of theirs."""

    def objects(key: str) -> str:
        heads = ((json.dumps(f'{{"name": "{name}", "{key}": '), rule) for name, rule in arguments)
        return " | ".join(f'({head} {rule} "}}")' for head, rule in heads)

    more = f"{{0,{most - 1}}}"
    match syntax.form:
        case "hermes":
            calls = f'call ("\\n" call){more}' if most > 1 else "call"
            opening, closing = syntax.marker(OPEN), syntax.marker(CLOSE)
            rules = [f'call: {opening} "\\n" object "\\n" {closing}', f"object: {objects('arguments')}"]
        case "mistral":
            calls = f'{syntax.marker(LISTED)} "[" call' + (f' (", " call){more}' if most > 1 else "") + ' "]"'
            rules = [f"call: {objects('arguments')}"]
        case "mistral_named":
            calls = f"call{{1,{most}}}"
            listed, separator = syntax.marker(LISTED), syntax.marker("[ARGS]")
            named = (f"({listed} {json.dumps(name)} {separator} {rule})" for name, rule in arguments)
            rules = [f"call: {' | '.join(named)}"]
        case "llama":
            calls = 'call ("; " call)' + more if most > 1 else "call"
            rules = [f"call: {objects('parameters')}"]
    return [f"calls: {calls}", *rules]
