"""Requests -> tokens, tokens -> answers: one face for the model's tokenizer and for the scripted engine's."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from tokenizers import Tokenizer

from shared.wire.schemas import FinishReason, InferenceRequest, ModelAbilities, ToolCall
from worker.engine_protocol import Grammar
from worker.text.answer_reader import AnswerReader
from worker.text.detokenizer import Detokenizer, RepetitionDetector, skipped_ids
from worker.text.reasoning import Said, joined


class Unanswerable(ValueError):
    """This model cannot answer the request; the message says why, to its client."""


class Prompts(Protocol):
    """How one model is spoken to."""

    tokenizer: Tokenizer
    abilities: ModelAbilities
    stop: tuple[str, ...]
    """Strings that end an answer beside those the client names."""

    def prompt_ids(self, request: InferenceRequest) -> tuple[int, ...]:
        """The rendered conversation; raises Unanswerable."""

    def grammar(self, request: InferenceRequest) -> Grammar | None:
        """What the answer must look like; None for free text. Raises Unanswerable."""

    def answer_reader(self, task_id: str, request: InferenceRequest) -> AnswerReader:
        """What reads the answer's text. Raises Unanswerable."""


class Codec:
    """Both directions for one model."""

    def __init__(self, prompts: Prompts, eos_token_ids: Iterable[int], *, stop_loops: bool) -> None:
        self.prompts = prompts
        self._stop_loops = stop_loops
        self._skipped: dict[frozenset[str] | None, frozenset[int]] = {None: frozenset(eos_token_ids)}
        """Ids of special tokens that are no text, by those that the reader must see."""
        self.max_token_bytes = max(len(token.encode()) for token in prompts.tokenizer.get_vocab())
        """An upper bound: byte-level vocabularies write some bytes as two."""

    def answer(self, task_id: str, request: InferenceRequest) -> "Answer":
        """An empty answer to the request. May take long; raises Unanswerable."""
        reader = self.prompts.answer_reader(task_id, request)
        seen = reader.special_tokens
        if seen not in self._skipped:
            self._skipped[seen] = skipped_ids(self.prompts.tokenizer, seen or ())
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return Answer(
            Detokenizer(self.prompts.tokenizer, stop=[*stop, *self.prompts.stop], skip=self._skipped[seen]),
            reader,
            RepetitionDetector() if self._stop_loops else None,
            most_calls=1 if request.parallel_tool_calls is False else None,
        )


class Answer:
    """The text of one task as it grows."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        reader: AnswerReader,
        repetition: RepetitionDetector | None,
        *,
        most_calls: int | None = None,
    ) -> None:
        """`most_calls`: further ones are left out; None for all."""
        self._detokenizer = detokenizer
        self._reader = reader
        self._repetition = repetition
        self._most_calls = most_calls
        self._shown: list[Said] = []
        self.tool_calls: list[ToolCall] = []
        """Set by `finish`."""
        self.reasoning_tokens = 0

    @property
    def text(self) -> str:
        """The answer without calls and reasoning."""
        return "".join(said.text for said in self._shown)

    @property
    def reasoning(self) -> str:
        """What the model wrote for itself."""
        return "".join(said.reasoning for said in self._shown)

    @property
    def raw_text(self) -> str:
        """What the model wrote."""
        return self._detokenizer.text

    def add(self, token_ids: Sequence[int]) -> tuple[Said, FinishReason | None]:
        """The text that these tokens make visible, and why the answer is over, if its text says so."""
        parts: list[Said] = []
        for token_id in token_ids:
            reasons = self._reader.in_reasoning
            parts.append(self._reader.add(self._detokenizer.add([token_id])))
            self.reasoning_tokens += reasons or self._reader.in_reasoning
        said = joined(parts)
        if said.text or said.reasoning:
            self._shown.append(said)
        if self._detokenizer.stopped is not None:
            return said, "stop_sequence"
        if self._repetition is not None and self._repetition.add(token_ids):
            return said, "loop"
        return said, None

    def finish(self, *, complete: bool) -> Said:
        """The text that was held back; `complete` is False for an answer that was cut short."""
        said = self._reader.add(self._detokenizer.finish())
        rest, calls = self._reader.finish(complete=complete)
        self.tool_calls = calls[: self._most_calls]
        said = joined([said, rest])
        self._shown.append(said)
        return said
