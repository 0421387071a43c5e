"""Requests -> tokens, tokens -> answers: one face for the model's tokenizer and for the scripted engine's."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from tokenizers import Tokenizer

from shared.wire.schemas import FinishReason, InferenceRequest, ModelAbilities, TokenLogprob, ToolCall
from worker.engine_protocol import Grammar, Logprobs
from worker.text.answer_reader import AnswerReader
from worker.text.answer_stream import AnswerStream
from worker.text.detokenizer import Detokenizer, RepetitionDetector, skipped_ids
from worker.text.reasoning import Said, joined
from worker.text.text_tokens import TextTokens
from worker.text.token_texts import TokenTexts


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

    def text_ids(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """The tokens of a text alone; with those that the model expects around any text, or without."""

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
        self._texts = TokenTexts(prompts.tokenizer)
        self.max_token_bytes = max(len(token.encode()) for token in prompts.tokenizer.get_vocab())
        """An upper bound: byte-level vocabularies write some bytes as two."""

    def prompt_ids(self, request: InferenceRequest) -> tuple[int, ...]:
        """What the model is to go on with. Raises Unanswerable."""
        match request.prompt:
            case None:
                return self.prompts.prompt_ids(request)
            case str(text):
                return self.prompts.text_ids(text, add_special_tokens=True)
            case ids:
                if max(ids) >= (size := self.prompts.tokenizer.get_vocab_size()):
                    raise Unanswerable(f"The model has no token {max(ids)}: its vocabulary has {size}.")
                return tuple(ids)

    def echo(self, request: InferenceRequest) -> str:
        """The text of the prompt where the answer is to begin with it; else empty."""
        if not request.echo or request.prompt is None:
            return ""
        if isinstance(request.prompt, str):
            return request.prompt
        return self.prompts.tokenizer.decode(request.prompt, skip_special_tokens=False)

    def answer(
        self, task_id: str, request: InferenceRequest, *, bounded: bool = False, withheld: bool = False
    ) -> "Answer":
        """An empty answer to the request. May take long; raises Unanswerable.

        `bounded`: a grammar brings it to its end, so that nobody must watch whether it runs in circles. `withheld`: its
        text is not shown before it is whole.
        """
        plain = request.prompt is not None
        # A prompt of the client's own: whatever the model writes is text.
        reader = AnswerStream((), task_id, known=()) if plain else self.prompts.answer_reader(task_id, request)
        seen = reader.special_tokens
        if seen not in self._skipped:
            self._skipped[seen] = skipped_ids(self.prompts.tokenizer, seen or ())
        stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
        return Answer(
            Detokenizer(
                self.prompts.tokenizer,
                stop=stop if plain else [*stop, *self.prompts.stop],
                skip=self._skipped[seen],
            ),
            reader,
            RepetitionDetector() if self._stop_loops and not bounded else None,
            stop=stop,
            one_call=request.parallel_tool_calls is False,
            tokens=None if request.logprobs is None else TextTokens(specials=plain),
            withheld=withheld,
        )

    def logprobs(self, token_ids: Sequence[int], logprobs: Sequence[Logprobs]) -> list[TokenLogprob]:
        """What an engine says of tokens, for clients."""
        return self._texts.told(token_ids, logprobs)


class Answer:
    """The text of one task as it grows."""

    def __init__(
        self,
        detokenizer: Detokenizer,
        reader: AnswerReader,
        repetition: RepetitionDetector | None,
        *,
        stop: Sequence[str] = (),
        one_call: bool = False,
        tokens: TextTokens | None = None,
        withheld: bool = False,
    ) -> None:
        """`stop`: those of the detokenizer's stop strings that the client has named. `one_call`: it ends with its first
        tool call. `tokens`: where their logprobs are told."""
        self._detokenizer = detokenizer
        self._reader = reader
        self._repetition = repetition
        self._stop = frozenset(stop)
        self._one_call = one_call
        self._tokens = tokens
        self._released = 0
        """Characters that the detokenizer has handed out."""
        self._withheld = withheld
        """Nothing is shown before it is whole."""
        self._said: list[Said] = []
        self.tool_calls: list[ToolCall] = []
        """Set by `finish`."""
        self.reasoning_tokens = 0

    @property
    def text(self) -> str:
        """The answer without calls and reasoning."""
        return "".join(said.text for said in self._said)

    @property
    def reasoning(self) -> str:
        """What the model wrote for itself."""
        return "".join(said.reasoning for said in self._said)

    @property
    def stop_sequence(self) -> str | None:
        """The client's stop string that ended it."""
        return self._detokenizer.stopped if self._detokenizer.stopped in self._stop else None

    @property
    def raw_text(self) -> str:
        """What the model wrote."""
        return self._detokenizer.text

    @property
    def untold(self) -> bool:
        """Whether the logprobs of some token are still to be told, with its text."""
        return self._tokens is not None and (self._withheld or self._tokens.untold)

    def told(self) -> list[TokenLogprob | None]:
        """Those of the tokens whose text became visible since the last call; None where `add` was given none."""
        return [] if self._tokens is None or self._withheld else self._tokens.taken()

    def add(
        self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob | None] = ()
    ) -> tuple[Said, FinishReason | None]:
        """What these tokens add to the text that may be shown, and why the answer is over, if its text says so."""
        parts: list[Said] = []
        for at, token_id in enumerate(token_ids):
            reasons = self._reader.in_reasoning
            read = self._detokenizer.add([token_id])
            parts.append(self._reader.add(read))
            self.reasoning_tokens += reasons or self._reader.in_reasoning
            if self._tokens is not None:
                self._released += len(read)
                special = self._detokenizer.skips(token_id)
                decoded = self._released + self._detokenizer.held
                self._tokens.draw(logprobs[at] if logprobs else None, decoded, special=special)
                self._tokens.show(read, parts[-1].text, self._reader.held)
        said = joined(parts)
        if said.text or said.reasoning:
            self._said.append(said)
        shown = Said() if self._withheld else said
        if self._detokenizer.stopped is not None:
            return shown, "stop" if self.stop_sequence is None else "stop_sequence"
        if self._one_call and self._reader.has_call:
            return shown, "stop"
        if self._repetition is not None and self._repetition.add(token_ids):
            return shown, "loop"
        return shown, None

    def finish(self, *, complete: bool) -> Said:
        """The text that was not shown so far; `complete` is False for an answer that was cut short."""
        read = self._detokenizer.finish()
        said = self._reader.add(read)
        held = self._reader.held
        rest, calls = self._reader.finish(complete=complete)
        self.tool_calls = calls[:1] if self._one_call else calls
        if self._tokens is not None:
            self._tokens.complete(self._released + len(read))
            self._tokens.show(read, said.text, held)
            self._tokens.show("", rest.text, 0)
            self._tokens.end()
        said = joined([said, rest])
        self._said.append(said)
        if not self._withheld:
            return said
        self._withheld = False
        return joined(self._said)
