"""A model's chat template, rendered in a process of its own (`template_child`): it may fail there, and nowhere else."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any, BinaryIO, cast

from tokenizers import Tokenizer

from worker.text import template_child
from worker.text.chat_tokenizer import ChatTokenizer
from worker.text.template_child import CPU_SECONDS, FIRST_STAND_IN, WALL_SECONDS, read, write

Turn = dict[str, Any]

KEPT_VARIABLES = ("TZ", "LD_LIBRARY_PATH")
"""Of the environment; the rest holds secrets, and the time of day is what templates ask for."""
TRIES = 2
"""A process that somebody else killed is no fault of a conversation."""


class TemplateRefusal(Exception):
    """The template does not take the conversation; the message is the template's."""


class TemplateBound(TemplateRefusal):
    """The template needs more time, memory or room for its prompt than any template should."""


class ChatTemplate:
    """A tokenizer's template, and the tokens of what it renders. May be used by several threads; one at a time renders.

    Control tokens come from the template alone: what a client writes is text, in every field and in every key.
    """

    def __init__(self, tokenizer: ChatTokenizer, cpu_seconds: float = CPU_SECONDS) -> None:
        """`cpu_seconds`: for one prompt. Raises TemplateRefusal where the template cannot be used at all."""
        added = sorted(tokenizer.added_tokens_decoder.items())
        self._model = {
            "templates": [_template(tokenizer, None), _template(tokenizer, [{}])],
            "variables": dict(tokenizer.special_tokens_map),
            "tokens": [(token.content, token.special) for _, token in added if token.content],
            "cpu_seconds": cpu_seconds,
        }
        self._lock = threading.Lock()
        self._child: _Child | None = None
        with self._lock:
            control_tokens = self._running().control_tokens
        self._stand_ins = {FIRST_STAND_IN + at: token for at, token in enumerate(control_tokens)}
        self._encoder = _Encoder(tokenizer.backend_tokenizer, control_tokens)

    def text(self, turns: Sequence[Turn], tools: Sequence[Turn] | None) -> str:
        """The prompt. Raises TemplateRefusal."""
        return self._rendered(turns, tools).translate(self._stand_ins)

    def ids(self, turns: Sequence[Turn], tools: Sequence[Turn] | None) -> tuple[int, ...]:
        """The tokens of the prompt. Raises TemplateRefusal."""
        return self._encoder.ids(self._rendered(turns, tools))

    def _rendered(self, turns: Sequence[Turn], tools: Sequence[Turn] | None) -> str:
        said = {"messages": list(turns), "tools": None if tools is None else list(tools)}
        with self._lock:
            for _ in range(TRIES):
                child = self._running()
                reply = child.asked(said)
                if reply is None:
                    self._child = None
                    child.raise_for_bound()
                elif "error" in reply:
                    raise (TemplateBound if reply.get("bound") else TemplateRefusal)(reply["error"])
                else:
                    return str(reply["text"])
        raise TemplateBound("the process that renders it was killed")

    def _running(self) -> "_Child":
        if self._child is None or self._child.ended:
            self._child = _Child(self._model)
        return self._child


def _template(tokenizer: ChatTokenizer, tools: list[Turn] | None) -> str | None:
    """Some models bring a template of its own for conversations with tools."""
    try:
        return str(tokenizer.get_chat_template(None, tools))
    except ValueError:
        return None


class _Child:
    """One process. It ends with this object."""

    def __init__(self, model: Turn) -> None:
        self._cpu_seconds: float = model["cpu_seconds"]
        self._process = subprocess.Popen(
            [sys.executable, "-I", template_child.__file__],  # by its file: -I keeps PYTHONPATH out
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a prompt may be in a traceback
            env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
        weakref.finalize(self, _end, self._process)
        reply = self.asked(model)
        if reply is None:
            self.raise_for_bound()
            raise TemplateBound("the process that renders it does not start")
        if "error" in reply:
            raise TemplateRefusal(reply["error"])
        self.control_tokens: list[str] = reply["control_tokens"]

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def asked(self, message: Turn) -> Any:
        """The reply; None when the process has ended over it."""
        with contextlib.suppress(BrokenPipeError):
            write(cast(BinaryIO, self._process.stdin), message)
            if (reply := read(cast(BinaryIO, self._process.stdout))) is not None:
                return json.loads(reply)
        return None

    def raise_for_bound(self) -> None:
        """Waits for the end, and says which bound it was, if any."""
        code = _end(self._process)
        if code == -signal.SIGPROF:
            raise TemplateBound(f"it takes more than {self._cpu_seconds:g} s")
        if code == -signal.SIGALRM:
            raise TemplateBound(f"it has not come to its end after {WALL_SECONDS:g} s")
        if code == 1 or code == -signal.SIGSEGV:  # no memory even to say so, or no stack
            raise TemplateBound("it takes too much memory")


def _end(process: "subprocess.Popen[bytes]") -> int:
    """The exit code. A process that is still at work ends by a bound of its own: nobody waits for that."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.close()
    if process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.5)
        process.kill()
    return process.wait()


class _Encoder:
    """Text in which stand-ins are the control tokens, and nothing else is one -> ids. One call for the whole text."""

    def __init__(self, tokenizer: Tokenizer, control_tokens: Sequence[str]) -> None:
        stand_ins = {token: chr(FIRST_STAND_IN + at) for at, token in enumerate(control_tokens)}
        description = json.loads(tokenizer.to_str())
        renamed: dict[str, int] = {}
        for token in description["added_tokens"]:
            renamed[stand_ins.get(token["content"], token["content"])] = token["id"]
            if token["content"] in stand_ins:
                token |= {"content": stand_ins[token["content"]], "normalized": False}
        self._tokenizer = Tokenizer.from_str(json.dumps(description))
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        ids = {content: cast(int, self._tokenizer.token_to_id(content)) for content in renamed}
        self._moved = {ids[content]: old for content, old in renamed.items() if ids[content] != old}
        """Stand-ins for tokens that the vocabulary proper has too are numbered anew."""
        spelt = {token: self._tokenizer.token_to_id(token) for token in control_tokens}
        self._spelt = {at: token for token, at in spelt.items() if at is not None}
        """Ids that no text may have, and that some vocabularies give to it all the same."""

    def ids(self, text: str) -> tuple[int, ...]:
        """Raises TemplateRefusal."""
        # Not `encode`: that holds the interpreter's lock.
        ids = self._tokenizer.encode_batch([text], add_special_tokens=False)[0].ids
        if self._spelt and not self._spelt.keys().isdisjoint(ids):
            token = next(self._spelt[at] for at in ids if at in self._spelt)
            raise TemplateRefusal(f"there is no way to say {token!r} to this model without meaning it")
        return tuple(map(self._moved.get, ids, ids) if self._moved else ids)
