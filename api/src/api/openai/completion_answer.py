"""The events of a completion's tasks -> a text completion, whole or in chunks: a choice for each task."""

import codecs
from collections.abc import Iterator, Sequence

from pydantic import JsonValue

from api.openai.answer import Event, Identity, Json, finish_reason, sum_of, usage_of

KIND = "text_completion"


def text_completion(identity: Identity, outcomes: Sequence[Event]) -> Json:
    """The reply to a request that does not stream, from the events that ended its tasks well."""
    choices: list[JsonValue] = [
        _choice(at, outcome["text"], LegacyLogprobs().of(outcome), finish_reason(outcome))
        for at, outcome in enumerate(outcomes)
    ]
    usage = sum_of([usage_of(outcome) for outcome in outcomes])
    return identity.head("cmpl", KIND) | {"choices": choices, "usage": usage}


class CompletionChunks:
    """The chunks of one choice of a streamed completion."""

    def __init__(self, identity: Identity, index: int, ended: "EndedChoices") -> None:
        self._head = identity.head("cmpl", KIND)
        self._index = index
        self._ended = ended
        self._logprobs = LegacyLogprobs()
        self.begun = False
        """True when the client has seen something of the answer."""

    def of_event(self, event: Event) -> Iterator[Json]:
        """The chunks that an event of the task's stream adds."""
        match event["type"]:
            case "token" if event["text"] or event.get("logprobs"):
                yield self._chunk(event["text"], self._logprobs.of(event))
            case "final_text":
                yield self._chunk("", None, finish_reason(event))
                if usage := self._ended.add(usage_of(event)):
                    yield self._head | {"choices": [], "usage": usage}

    def _chunk(self, text: str, logprobs: JsonValue, finish: str | None = None) -> Json:
        self.begun = True
        usage: Json = {"usage": None} if self._ended.tells else {}
        return self._head | {"choices": [_choice(self._index, text, logprobs, finish)]} | usage


class EndedChoices:
    """What the choices of one stream have used, told once behind the last of them."""

    def __init__(self, choices: int, *, tells: bool) -> None:
        self._open = choices
        self._usages: list[Json] = []
        self.tells = tells
        """The client has asked for it."""

    def add(self, usage: Json) -> Json | None:
        """Of one choice that has ended; that of all where it was the last and the client asked."""
        self._usages.append(usage)
        return sum_of(self._usages) if self.tells and len(self._usages) == self._open else None


class LegacyLogprobs:
    """The form that log-probabilities have here, of one choice: lists side by side, and where each token begins."""

    def __init__(self) -> None:
        self._offset = 0
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, event: Event) -> Json | None:
        """Those that an event tells; None where it tells none."""
        if not event.get("logprobs"):
            return None
        tokens: list[JsonValue] = []
        own: list[JsonValue] = []
        top: list[JsonValue] = []
        offsets: list[JsonValue] = []
        for token in event["logprobs"]:
            name = _named(token)
            tokens.append(name)
            own.append(token.get("logprob"))
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(bytes(token.get("bytes") or token["token"].encode())))
            if "logprob" not in token:
                top.append(None)
                continue
            likely: Json = {}
            for other in [*token["topLogprobs"], token]:
                likely.setdefault(_named(other), other["logprob"])
            top.append(likely)
        return {"tokens": tokens, "token_logprobs": own, "top_logprobs": top, "text_offset": offsets}


def _named(token: Event) -> str:
    """A part of a character as this form of the API spells it: `bytes:\\xf0\\x9f`."""
    text: str = token["token"]
    return f"bytes:{text}" if token.get("bytes") else text


def _choice(index: int, text: str, logprobs: JsonValue, finish: str | None) -> Json:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
