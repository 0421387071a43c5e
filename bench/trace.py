"""Chats that look like real ones, made from a seed: the same trace for whoever is measured."""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

WORDS = (  # noqa: SIM905  # a list of literals would be a page long
    "water river night small table garden letter window winter market engine signal paper mountain station "
    "kitchen bridge number colour morning silver village corner teacher island pocket summer doctor travel "
    "copper planet evening forest button yellow picture castle feather thunder basket harbour lantern meadow"
).split()

OPENINGS = (
    "Write a long story about the {0} and the {1} near the {2}.",
    "Explain step by step how a {0} could be built from a {1} and a {2}.",
    "Describe in detail a journey from the {0} to the {1} through the {2}.",
    "List and explain everything that one should know about a {0}, a {1} and a {2}.",
)

TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds what is known about a thing.",
        "parameters": {"type": "object", "properties": {"thing": {"type": "string"}}, "required": ["thing"]},
    },
}


@dataclass(frozen=True)
class Turn:
    """One request of a trace."""

    messages: list[dict[str, Any]]
    max_tokens: int
    at: float = 0.0
    """Seconds after the start at which an open-loop generator sends it."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    kind: Literal["first", "later", "tool"] = "first"


def stories(seed: str, count: int, max_tokens: int) -> list[Turn]:
    """Short prompts whose answers go on until `max_tokens`: load for an engine. All begin with the same 24 tokens."""
    random_ = random.Random(seed)
    return [Turn([_user(_opening(random_))], max_tokens) for _ in range(count)]


def chats(seed: str, count: int, per_second: float, scale: float = 1.0) -> list[Turn]:
    """Turns of conversations, sent at random times, `per_second` on average.

    Lengths are log-normal with the long tails of public chat logs: a user's message of 25 words (median), an answer of
    80 tokens, both times `scale`. A conversation has two turns on average; a later turn in four brings a tool's result.
    """
    random_ = random.Random(seed)
    turns: list[Turn] = []
    at = 0.0
    while len(turns) < count:
        messages: list[dict[str, Any]] = []
        kind: Literal["first", "later", "tool"] = "first"
        while True:
            if kind == "tool":
                messages = [*messages, *_tool_round(random_)]
            else:
                messages = [
                    *messages,
                    _user(_opening(random_) + " " + _text(random_, _length(random_, 25 * scale, 800))),
                ]
            at += random_.expovariate(per_second)
            max_tokens = _length(random_, 80 * scale, 400)
            turns.append(Turn(messages, max_tokens, at, [TOOL] if kind == "tool" else [], kind))
            if len(turns) == count or random_.random() < 0.5:
                break
            messages = [*messages, {"role": "assistant", "content": _text(random_, max_tokens // 2 + 1)}]
            kind = "tool" if random_.random() < 0.25 else "later"
    return turns


def _tool_round(random_: random.Random) -> list[dict[str, Any]]:
    thing, number = random_.choice(WORDS), f"call_{random_.randrange(10**9)}"
    call = {"id": number, "type": "function", "function": {"name": "look_up", "arguments": f'{{"thing": "{thing}"}}'}}
    return [
        _user(f"What is known about the {thing}?"),
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": number, "content": _text(random_, 40)},
    ]


def _opening(random_: random.Random) -> str:
    return random_.choice(OPENINGS).format(*(f"{random_.choice(WORDS)} {random_.choice(WORDS)}" for _ in range(3)))


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _text(random_: random.Random, words: int) -> str:
    return " ".join(random_.choice(WORDS) for _ in range(words))


def _length(random_: random.Random, median: float, most: int) -> int:
    return max(1, min(most, round(median * random_.lognormvariate(0.0, 0.9))))
