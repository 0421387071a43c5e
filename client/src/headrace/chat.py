"""Conversations on a terminal: an answer printed as it comes, and a prompt."""

import contextlib
import sys

from headrace.calls import Message, Options
from headrace.client import Client
from headrace.errors import HeadraceError
from headrace.events import Event, FinalText, Outcome, Status, Token, ToolCalls
from headrace.following import ending


def answer(client: Client, messages: list[Message], options: Options) -> FinalText | ToolCalls:
    """Asks, prints the text as it arrives, and returns the whole. Ctrl-C cancels the task."""
    task_id = client.create(messages, **options)
    outcome = None
    thinking = False
    try:
        for event in client.stream(task_id):
            thinking = show(event, thinking)
            outcome = event if isinstance(event, Outcome) else outcome
    except KeyboardInterrupt:
        with contextlib.suppress(HeadraceError):
            client.cancel(task_id)
        raise
    finally:
        print(flush=True)
    return ending(outcome, task_id)


def show(event: Event, thinking: bool) -> bool:
    """Text goes to stdout, all else worth knowing to stderr, reasoning too: a pipe gets the answer alone.

    `thinking`: the last that was shown is reasoning; so is the result, for the next event.
    """
    match event:
        case Token(text=text, reasoning=reasoning):
            if reasoning:
                print(reasoning, end="", file=sys.stderr, flush=True)
            if text and (thinking or reasoning):
                print("\n", file=sys.stderr, flush=True)
            print(text, end="", flush=True)
            return not text and (thinking or bool(reasoning))
        case Status(restart=True):
            print("\n[the answer starts over]", file=sys.stderr, flush=True)
        case Status(state="PENDING", detail=str(detail)):
            print(f"[{detail}]", file=sys.stderr, flush=True)
        case Status(guard=guard) if guard is not None and guard.reason:
            print(f"[{guard.reason}]", file=sys.stderr, flush=True)
        case ToolCalls(tool_calls=calls):
            print("\n".join(f"{call.name}({call.arguments})" for call in calls), flush=True)
        case _:
            pass
    return thinking


def converse(client: Client, options: Options, messages: list[Message]) -> None:
    """Asks for prompts until Ctrl-D; each goes on with the conversation in `messages`."""
    while True:
        try:
            prompt = input("\nYou: ").strip()
        except EOFError:
            print()
            return
        if not prompt:
            continue
        messages.append({"role": "user", "content": prompt})
        try:
            outcome = answer(client, messages, options)
        except HeadraceError as error:
            print(f"headrace: {error}", file=sys.stderr)
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": outcome.text})
