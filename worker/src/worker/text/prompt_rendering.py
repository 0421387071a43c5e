"""A request -> the token ids of its prompt, by the model's own chat template."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer

from shared.conversation.prompts import with_tool_prompt
from shared.wire.chat import AssistantMessage, ChatMessage, SystemMessage, Tool, ToolMessage, UserMessage
from shared.wire.schemas import InferenceRequest, ModelAbilities
from worker.engine_protocol import Grammar, Reasoning
from worker.panics import LEAVING
from worker.text.answer_grammars import grammar_for, is_enforced
from worker.text.answer_reader import AnswerReader
from worker.text.answer_stream import AnswerStream
from worker.text.call_rules import call_syntax
from worker.text.chat_template import ChatTemplate, TemplateRefusal, Turn
from worker.text.chat_tokenizer import ChatTokenizer
from worker.text.codec import Unanswerable
from worker.text.reasoning import Tags, named_by, opened_by, tags_known_to
from worker.text.template_abilities import abilities_of
from worker.text.template_answer_stream import TemplateAnswerStream
from worker.text.tool_calls import offered_tools

PLAIN_STOP = ("\nUser:", "\nSystem:")
"""Where an answer to the plain prompt ends: a base model goes on with the other side's turn."""


class PromptRefused(Unanswerable):
    """The model's chat template does not take this conversation; the message is the template's."""


class PromptRenderer:
    """Renders requests for one tokenizer. The same request always gives the same ids.

    A conversation that goes on starts with the ids of what it was before, as far as the template allows: every message
    is rendered from itself alone, and `toolChoice` changes nothing but whether tools are shown.

    A tokenizer without a chat template gets the plain form, one `Role: text` paragraph per message:

        System: ...\\n\\nUser: ...\\n\\nAssistant: ...\\n\\nUser: ...\\n\\nAssistant:
    """

    def __init__(self, tokenizer: ChatTokenizer, max_new_tokens: int) -> None:
        """`max_new_tokens`: the worker's limit for requests that name none. Raises TemplateRefusal where the model's
        chat template cannot be used at all."""
        self._tokenizer = tokenizer
        self._max_new_tokens = max_new_tokens
        self.tokenizer: Tokenizer = tokenizer.backend_tokenizer
        self._template = None if tokenizer.chat_template is None else ChatTemplate(tokenizer)
        self.template = abilities_of(self._template)
        self.abilities = ModelAbilities(tools="native" if self.template.tools else "prompt")
        self.stop: tuple[str, ...] = () if self.template.template else PLAIN_STOP
        """Strings that end an answer beside those the client names."""
        template = str(tokenizer.chat_template or "")
        self.reasoning: tuple[Tags, ...] = tags_known_to(template)
        self._reasons = named_by(template)
        self._syntax = call_syntax(tokenizer, self.template.call_form, native=self.template.tools)

    def grammar(self, request: InferenceRequest) -> Grammar | None:
        """What the answer must look like; None for free text. Raises UnsupportedSchema."""
        most = request.max_tokens or self._max_new_tokens
        tags, opened = self._leading_reasoning(request) if is_enforced(request) else (None, None)
        reasoning = Reasoning(tags.closing, "" if opened else tags.opening) if tags else None
        return grammar_for(request, self._syntax, most, reasoning)

    def answer_reader(self, task_id: str, request: InferenceRequest) -> AnswerReader:
        """What reads the answer: the tokenizer's own response template where it has one, else the usual forms.

        An answer that a grammar holds is in the grammar's form, whatever the templates say. Reasoning stands in front
        of it alone: such tags in its strings are text.
        """
        tools = offered_tools(request)
        if is_enforced(request):
            tags, opened = self._leading_reasoning(request)
            return AnswerStream(tools, task_id, known=(tags,) if tags else (), opened=opened, leading_only=True)
        if getattr(self._tokenizer, "response_template", None) is not None:
            prompt = self.prompt_text(request)
            try:
                return TemplateAnswerStream(self._tokenizer, prompt, tools, task_id)
            except LEAVING:
                raise
            except BaseException as error:
                raise PromptRefused(f"The model's response template cannot be used on this prompt: {error}") from error
        opened = opened_by(self.prompt_text(request), self.reasoning) if self._reasons else None
        return AnswerStream(tools, task_id, known=self.reasoning, opened=opened)

    def _leading_reasoning(self, request: InferenceRequest) -> tuple[Tags | None, Tags | None]:
        """The tags around what the model may write in front of its answer, if it reasons; and those that the prompt has
        opened. A prompt that closes them at its end has the answer begin."""
        if self._reasons is None:
            return None, None
        prompt = self.prompt_text(request)
        opened = opened_by(prompt, self.reasoning)
        closed = prompt.rstrip().endswith(self._reasons.closing)
        return opened or (None if closed else self._reasons), opened

    def prompt_ids(self, request: InferenceRequest) -> tuple[int, ...]:
        """Raises PromptRefused.

        Text of the client that spells a control token (`<|im_end|>`) is encoded as text: it cannot end its message.
        """
        turns, tools = self._turns(request)
        if self._template is None:
            return tuple(self._tokenizer.encode(_plain(turns), split_special_tokens=True))
        with _refused():
            return self._template.ids(turns, tools)

    def text_ids(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """The tokens of a text alone; with those that the model expects around any text, or without."""
        return tuple(self.tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def prompt_text(self, request: InferenceRequest) -> str:
        """The prompt as text, for people and for parsers that must know how the answer was opened."""
        turns, tools = self._turns(request)
        if self._template is None:
            return _plain(turns)
        with _refused():
            return self._template.text(turns, tools)

    def _turns(self, request: InferenceRequest) -> tuple[list[Turn], list[Turn] | None]:
        tools = offered_tools(request)
        if self.template.tools:
            turns = self._native_turns(request.messages)
        else:
            turns = [dict(turn) for turn in with_tool_prompt(request.messages, tools, request.tool_choice)]
        if not self.template.system:
            turns = _system_folded(turns)
        if not self.template.repeated_roles:
            turns = _merged(turns)
        return turns, [_declared(tool) for tool in tools] if tools and self.template.tools else None

    def _native_turns(self, messages: Sequence[ChatMessage]) -> list[Turn]:
        system = [message.content for message in messages if isinstance(message, SystemMessage)]
        turns: list[Turn] = [{"role": "system", "content": "\n\n".join(system)}] if system else []
        names: dict[str, str] = {}
        """Call id -> function name, in the round at hand."""
        for message in messages:
            match message:
                case UserMessage():
                    turns.append({"role": "user", "content": message.content})
                case AssistantMessage():
                    names = {call.id: call.function.name for call in message.tool_calls or []}
                    turns.append(self._said(message))
                case ToolMessage():
                    turns.append(self._result(message, names[message.tool_call_id]))
        return turns if self.template.parallel_calls else _one_call_each(turns)

    def _said(self, message: AssistantMessage) -> Turn:
        turn: Turn = {"role": "assistant", "content": message.content or ""}
        if message.tool_calls:
            turn["tool_calls"] = [
                {
                    "id": self._call_id(call.id),
                    "type": "function",
                    "function": {
                        "name": call.function.name,
                        "arguments": call.function.parsed_arguments()
                        if self.template.argument_objects
                        else call.function.arguments.strip() or "{}",
                    },
                }
                for call in message.tool_calls
            ]
        return turn

    def _result(self, message: ToolMessage, name: str) -> Turn:
        return {
            "role": "tool",
            "content": message.content,
            "tool_call_id": self._call_id(message.tool_call_id),
            "name": name,
        }

    def _call_id(self, call_id: str) -> str:
        return hashlib.sha256(call_id.encode()).hexdigest()[:9] if self.template.short_call_ids else call_id


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except (TemplateRefusal, ValueError, TypeError) as error:  # the latter two: text that is none, like half a pair
        raise PromptRefused(f"The model's chat template does not take this conversation: {error}") from error


def _declared(tool: Tool) -> Turn:
    return {"type": "function", "function": tool.function.model_dump(include={"name", "description", "parameters"})}


def _one_call_each(turns: Sequence[Turn]) -> list[Turn]:
    """A round of several calls as rounds of one call, for templates that know no parallel calls."""
    split: list[Turn] = []
    for place, turn in enumerate(turns, 1):
        calls = turn.get("tool_calls", [])
        # Of this round alone: the ids of calls may come again in the next one.
        results = {result["tool_call_id"]: result for result in turns[place : place + len(calls)]}
        for at, call in enumerate(calls):
            content = turn["content"] if at == 0 else ""
            split += [{"role": "assistant", "content": content, "tool_calls": [call]}, results[call["id"]]]
        if not calls and turn["role"] != "tool":
            split.append(turn)
    return split


def _system_folded(turns: Sequence[Turn]) -> list[Turn]:
    """The system message at the head of the first user message, for templates that know no system role."""
    if not turns or turns[0]["role"] != "system":
        return list(turns)
    system, rest = turns[0]["content"], list(turns[1:])
    for at, turn in enumerate(rest):
        if turn["role"] == "user":
            rest[at] = {**turn, "content": f"{system}\n\n{turn['content']}"}
            return rest
    return [{"role": "user", "content": system}, *rest]


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    """Plain messages of one role after each other as one message, for templates that want the roles to alternate."""
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else {}
        plain = turn["role"] in ("user", "assistant") and not (turn.get("tool_calls") or last.get("tool_calls"))
        if plain and last.get("role") == turn["role"]:
            merged[-1] = {**last, "content": f"{last['content']}\n\n{turn['content']}"}
        else:
            merged.append(turn)
    return merged


def _plain(turns: Sequence[Turn]) -> str:
    return "".join(f"{turn['role'].capitalize()}: {turn['content']}\n\n" for turn in turns) + "Assistant:"
