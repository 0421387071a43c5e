"""The commands that ask a model: `chat`, `ask`, `submit`."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from headrace.calls import Message, Options
from headrace.cli.common import ApiKey, Output, OutputOption, Url, print_json
from headrace.cli.conversation import Conversation, answer
from headrace.cli.started import start
from headrace.client import DEFAULT_URL, Client

Model = Annotated[str | None, typer.Option(help="Default: the server's.", metavar="NAME")]
System = Annotated[str | None, typer.Option(help="Instructions that stand above the conversation.", metavar="TEXT")]
Temperature = Annotated[float | None, typer.Option(help="0 is the likeliest token each time.", min=0, max=2)]
MaxTokens = Annotated[int | None, typer.Option(help="Most tokens of the answer.", min=1)]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
Prompt = Annotated[str | None, typer.Argument(help="Left out: standard input.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="The answer is a JSON object.")]
Schema = Annotated[
    Path | None,
    typer.Option(help="The answer is a document that this JSON schema accepts.", metavar="FILE", dir_okay=False),
]


def chat(
    prompt: Annotated[str | None, typer.Argument(help="Left out: a conversation, or standard input.")] = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    model: Model = None,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    conversation: Annotated[
        str | None,
        typer.Option(help="Go on with the one that the server keeps by this name, or begin it.", metavar="NAME"),
    ] = None,
    output: OutputOption = Output.text,
) -> None:
    """Talk with a model: /help tells the commands. With a prompt, or with input from a pipe, one answer and no more.
    With `-o json`: of each answer the outcome, as one line.
    """
    options = _options(model, temperature, max_tokens, seed)
    with Client(url, api_key=api_key) as server:
        if conversation:
            talk = Conversation.stored(server, options, conversation, output)
        else:
            talk = Conversation(server, options, output=output)
        if system is not None:
            if talk.kept:
                raise typer.BadParameter(
                    "the conversation goes on as it began; /system changes that", param_hint="--system"
                )
            talk.messages = _messages(system, None)
        if prompt is None and sys.stdin.isatty():
            if output is Output.text:
                talk.recall()
            talk.run()
        else:
            answer(server, talk.asking(_text(prompt)), talk.options, output)


def ask(
    prompt: Prompt = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    model: Model = None,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    json_object: Json = False,
    schema: Schema = None,
    image: Annotated[list[Path] | None, typer.Option(help="Not taken yet: models here read text.")] = None,
    output: OutputOption = Output.text,
) -> None:
    """Ask one question. With `-o json`: the outcome with its tokens and times, as one line."""
    options = _options(model, temperature, max_tokens, seed, json_object, schema, image)
    messages = _messages(system, _text(prompt))
    with Client(url, api_key=api_key) as server:
        answer(server, messages, options, output)


def submit(
    prompt: Prompt = None,
    url: Url = DEFAULT_URL,
    api_key: ApiKey = None,
    model: Model = None,
    system: System = None,
    temperature: Temperature = None,
    max_tokens: MaxTokens = None,
    seed: Seed = None,
    json_object: Json = False,
    schema: Schema = None,
    output: OutputOption = Output.text,
) -> None:
    """Start a task and print its id; `watch`, `get` and `cancel` take it, `tasks` finds it again."""
    options = _options(model, temperature, max_tokens, seed, json_object, schema)
    with Client(url, api_key=api_key) as server:
        task_id = start(server, _messages(system, _text(prompt)), options)
    if output is Output.json:
        print_json({"taskId": task_id})
    else:
        print(task_id)


def _messages(system: str | None, prompt: str | None) -> list[Message]:
    messages: list[Message] = [] if system is None else [{"role": "system", "content": system}]
    return messages if prompt is None else [*messages, {"role": "user", "content": prompt}]


def _text(prompt: str | None) -> str:
    return sys.stdin.read() if prompt is None else prompt


def _options(
    model: str | None,
    temperature: float | None,
    max_tokens: int | None,
    seed: int | None,
    json_object: bool = False,
    schema: Path | None = None,
    image: list[Path] | None = None,
) -> Options:
    if image:
        raise typer.BadParameter("no model of this server takes images; describe it in words", param_hint="--image")
    options: Options = {}
    if model is not None:
        options["model"] = model
    if temperature is not None:
        options["temperature"] = temperature
    if max_tokens is not None:
        options["max_tokens"] = max_tokens
    if seed is not None:
        options["seed"] = seed
    if schema is not None:
        form = {"name": "document", "schema": _schema(schema), "strict": True}
        options["response_format"] = {"type": "json_schema", "json_schema": form}
    elif json_object:
        options["response_format"] = {"type": "json_object"}
    return options


def _schema(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{file}: {error}", param_hint="--schema") from None
    if not isinstance(found, dict):
        raise typer.BadParameter(f"{file} holds no JSON object", param_hint="--schema")
    return found
