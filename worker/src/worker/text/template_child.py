"""The process that renders a model's chat template: a foreign program, given clients' texts, held within bounds.

    python -I template_child.py

Reads a `Model` and then requests from standard input, writes a reply to each to standard output, and ends with its
input. Every message is JSON behind its length in four bytes. Imports nothing of the worker's: it is small, starts in a
fifth of a second, and has nothing that a template could want: no setting, no connection, no file.
"""

import json
import pprint  # noqa: F401  # Jinja imports this and the next when it needs them, and no file can be opened then
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any, BinaryIO

import jinja2.debug
import jinja2.ext
from jinja2 import nodes
from jinja2.parser import Parser
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

CPU_SECONDS = 2.0
"""For one prompt; a conversation that fills a context of 128,000 tokens takes some milliseconds."""
WALL_SECONDS = 30.0
"""For one prompt, on a machine that has no time for it."""
MEMORY_BYTES = 512 * 2**20
"""Address space. The process alone has 30 MiB."""
OUTPUT_FACTOR = 8
OUTPUT_CHARACTERS = 2**20
"""A prompt has at most OUTPUT_CHARACTERS, and for each byte of the request OUTPUT_FACTOR more."""
TOLD_CHARACTERS = 500
"""Of what a template says when it refuses a conversation: clients get to read it."""
START, END = "\U0001d800", "\U0001d801"
"""Around what a client wrote that spells a control token. Two of the signs of SignWriting: `repr` writes them as they
are, which templates that show an object bring about, and no filter changes them."""
FIRST_STAND_IN = 0xF0000
"""Of the control tokens that the template itself wrote: one private character for each, in their order."""
MOST_CONTROL_TOKENS = 0xFFFD


def main() -> None:
    """Serves until the input ends."""
    first = read(sys.stdin.buffer)
    assert first is not None
    model = json.loads(first)
    cpu_seconds = model["cpu_seconds"]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _begin_to_count(cpu_seconds)
    try:
        renderer = Renderer(model["templates"], model["variables"], model["tokens"])
    except MemoryError:
        raise
    except Exception as error:
        write(sys.stdout.buffer, {"error": _told(error)})
        return
    # From here on the template runs. What is open stays open.
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    write(sys.stdout.buffer, {"control_tokens": renderer.control_tokens})
    while (body := read(sys.stdin.buffer)) is not None:
        _begin_to_count(cpu_seconds)
        try:
            reply: dict[str, Any] = {"text": renderer.render(**json.loads(body), size=len(body))}
        except MemoryError:
            write(sys.stdout.buffer, {"error": "it takes too much memory", "bound": True})
            return
        except TooLong as error:
            reply = {"error": str(error), "bound": True}
        except Exception as error:  # a template is a foreign program and may fail in any way
            reply = {"error": _told(error)}
        write(sys.stdout.buffer, reply)


def read(pipe: BinaryIO) -> bytes | None:
    """The next message's JSON; None at the end of the pipe."""
    head = pipe.read(4)
    if len(head) < 4:
        return None
    size = int.from_bytes(head, "big")
    body = pipe.read(size)
    return body if len(body) == size else None


def write(pipe: BinaryIO, message: Any) -> None:
    body = json.dumps(message).encode()
    pipe.write(len(body).to_bytes(4, "big") + body)
    pipe.flush()


def _begin_to_count(cpu_seconds: float) -> None:
    """The kernel ends whoever is over a bound, whatever it does: Python would wait for the end of a multiplication."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)


def _told(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= TOLD_CHARACTERS else f"{text[:TOLD_CHARACTERS]}…"


class TooLong(Exception):
    """The prompt is longer than anything that a template makes of such a conversation."""


class Renderer:
    """One model's templates. In the text that it gives, control tokens of the template are private characters."""

    def __init__(
        self, templates: Sequence[str | None], variables: dict[str, str], tokens: Sequence[tuple[str, bool]]
    ) -> None:
        """`templates`: without and with tools. `tokens`: those beside the vocabulary proper, and whether each is
        special."""
        environment = _environment()
        self._templates = [None if text is None else environment.from_string(text) for text in templates]
        self._variables = variables
        written = "\0".join(text for template in templates if template for text in _literals(environment, template))
        self.control_tokens = [
            token
            for token, special in tokens
            if special or _BRACKETED.fullmatch(token) or (token in written and not token.isspace())
        ][:MOST_CONTROL_TOKENS]
        if len(self.control_tokens) == MOST_CONTROL_TOKENS:
            raise ValueError("The tokenizer has more control tokens than can be told apart.")
        token = either(self.control_tokens)
        stand_ins = {token: chr(FIRST_STAND_IN + at) for at, token in enumerate(self.control_tokens)}
        self._imitation = re.compile(either([*self.control_tokens, START, END]))
        private = f"{chr(FIRST_STAND_IN)}-{chr(FIRST_STAND_IN + MOST_CONTROL_TOKENS)}"
        # One marker is enough: a template may have cut off the other.
        self._anything = re.compile(
            f"{START}({token}|[{START}{END}]){END}?|({token}){END}|({token})|([{private}])|[{START}{END}]"
        )
        self._stand_ins = stand_ins

    def render(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None, size: int) -> str:
        """`size`: of the request, in bytes."""
        template = self._templates[tools is not None]
        if template is None:
            raise ValueError("it has no form for this")
        said = [{name: value for name, value in message.items() if value is not None} for message in messages]
        most, length, parts = OUTPUT_CHARACTERS + OUTPUT_FACTOR * size, 0, []
        for part in template.generate(
            messages=self._marked(said),
            tools=self._marked(tools),
            documents=None,
            add_generation_prompt=True,
            **self._variables,
        ):
            length += len(part)
            if length > most:
                raise TooLong(f"its prompt has more than {most} characters")
            parts.append(part)
        return self._anything.sub(self._replacement, "".join(parts))

    def _marked(self, value: Any) -> Any:
        """What a client wrote, keys too, with markers around control tokens."""
        match value:
            case str():
                return self._imitation.sub(f"{START}\\g<0>{END}", value)
            case dict():
                return {self._marked(key): self._marked(item) for key, item in value.items()}
            case list():
                return [self._marked(item) for item in value]
        return value

    def _replacement(self, match: re.Match[str]) -> str:
        """What came between a client's markers is text, however a template cut and joined it; the rest is meant."""
        imitated, cut, meant, private = match.groups()
        return imitated or cut or (self._stand_ins[meant] if meant else "\ufffd" if private else "")


_BRACKETED = re.compile("<[|\uff5c].+[|\uff5c]>")
"""What is a control token by its looks, whether the model's authors said so or not: `<|fim_prefix|>`."""


def either(words: Sequence[str]) -> str:
    """A pattern for the longest of the words that is there: by their common beginnings, so that no text makes it try
    them one after the other."""
    tree: dict[str, Any] = {}
    for word in words:
        node = tree
        for char in word:
            node = node.setdefault(char, {})
        node[""] = {}
    return _pattern(tree) if any(words) else "(?!)"


def _pattern(node: dict[str, Any]) -> str:
    ways = [re.escape(char) + _pattern(rest) for char, rest in node.items() if char]
    if not ways:
        return ""
    pattern = ways[0] if len(ways) == 1 and "" not in node else f"(?:{'|'.join(ways)})"
    return f"{pattern}?" if "" in node else pattern


def _literals(environment: jinja2.Environment, template: str) -> Iterator[str]:
    """What the template itself can write."""
    tree = environment.parse(template)
    yield from (node.data for node in tree.find_all(nodes.TemplateData))
    yield from (node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str))


def _environment() -> ImmutableSandboxedEnvironment:
    """What chat templates are written for: Jinja as transformers sets it up."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals |= {
        "raise_exception": _raise_exception,
        "strftime_now": _strftime_now,
        "namespace": _Namespace,
        "dict": _Dict(),
    }
    return environment


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: templates say with it, to those who train, what the model wrote."""

    tags = {"generation"}  # noqa: RUF012  # as its base declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_as_it_is"), [], [], body).set_lineno(line)

    def _as_it_is(self, caller: Macro) -> str:
        return caller()


class _Namespace(Namespace):
    """No name with a leading underscore: such ones lead into the interpreter."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `namespace(self=...)` is a template's right
        self, args = args[0], args[1:]
        values = dict(*args, **kwargs)
        for name in values:
            _refuse_private(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace has no name {name!r}: it begins with an underscore")


class _Dict:
    """Makes dicts, and has none of the type's attributes."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    @property
    def fromkeys(self) -> Callable[..., dict[Any, Any]]:
        return dict.fromkeys


_ESCAPED_START, _ESCAPED_END = json.dumps(START)[1:-1], json.dumps(END)[1:-1]


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Not Jinja's own, which escapes for HTML. Markers stay markers."""
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return text.replace(_ESCAPED_START, START).replace(_ESCAPED_END, END) if ensure_ascii else text


def _raise_exception(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


if __name__ == "__main__":
    main()
