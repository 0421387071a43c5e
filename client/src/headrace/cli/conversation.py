"""Talking with a model on a terminal: answers as they come, `/commands`, a history."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headrace.calls import Message, Options
from headrace.cli.answer_view import answer_view
from headrace.cli.common import Output, notices, print_json
from headrace.cli.started import start, state_folder
from headrace.client import Client
from headrace.errors import ConversationNotFound, HeadraceError, TaskCancelled, TaskFailed
from headrace.events import FinalText, Outcome, ToolCalls
from headrace.following import ending

HISTORY_LINES = 1000


def answer(
    client: Client, messages: str | list[Message], options: Options, output: Output = Output.text
) -> FinalText | ToolCalls:
    """Asks, shows the text as it arrives, or the outcome as a line for programs, and returns the whole.

    Ctrl-C cancels the task and is raised again.
    """
    task_id = start(client, messages, options)
    try:
        return follow(client, task_id) if output is Output.text else _told(client, task_id)
    except KeyboardInterrupt:
        with contextlib.suppress(HeadraceError):
            client.cancel(task_id)
        raise


def follow(client: Client, task_id: str, last_event_id: str | None = None) -> FinalText | ToolCalls:
    """Shows a task's answer, from its beginning or behind an event, and returns the whole."""
    outcome = None
    with answer_view() as view:
        for event in client.stream(task_id, last_event_id=last_event_id):
            view.show(event)
            outcome = event if isinstance(event, Outcome) else outcome
    return ending(outcome, task_id)


def _told(client: Client, task_id: str) -> FinalText | ToolCalls:
    try:
        outcome = client.wait(task_id)
    except TaskFailed as failed:
        print_json({"type": "error", "taskId": task_id, "code": failed.code, "message": str(failed)})
        raise
    print_json(outcome.model_dump(mode="json", exclude_none=True))
    return outcome


@dataclass
class Conversation:
    """What has been said, and how the next answer is asked for."""

    client: Client
    options: Options
    messages: list[Message] = field(default_factory=list)
    kept: bool = False
    """The server has what was said so far, as the conversation that the options name: only what is new is sent."""
    output: Output = Output.text

    @classmethod
    def stored(cls, client: Client, options: Options, name: str, output: Output = Output.text) -> "Conversation":
        """The one that the server keeps under this name, or one that it will: with its first answer."""
        try:
            messages = _messages_of(client, name)
        except ConversationNotFound:
            messages = []
        return cls(client, {**options, "conversation_id": name}, messages, kept=bool(messages), output=output)

    def recall(self) -> None:
        """Shows what was said."""
        for message in self.messages:
            who = {"user": "\nYou: ", "assistant": ""}.get(message["role"], f"[{message['role']}] ")
            if content := message.get("content"):
                print(f"{who}{content}")

    def asking(self, prompt: str) -> str | list[Message]:
        """What is sent for this prompt: all that was said, unless the server has it."""
        return prompt if self.kept else [*self.messages, {"role": "user", "content": prompt}]

    def run(self) -> None:
        """Asks for prompts until Ctrl-D or /quit. Ctrl-C stops an answer; at the prompt it is raised."""
        with _history():
            while True:
                try:
                    prompt = input("\nYou: ").strip()
                except EOFError:
                    print()
                    return
                if prompt == "/quit":
                    return
                try:
                    if prompt.startswith("/"):
                        self._obey(*prompt[1:].split(maxsplit=1))
                    elif prompt:
                        self._ask(prompt)
                except (HeadraceError, OSError, ValueError) as error:
                    _tell(f"headrace: {error}")

    def _ask(self, prompt: str) -> None:
        try:
            outcome = answer(self.client, self.asking(prompt), self.options, self.output)
        except KeyboardInterrupt:
            _tell("[stopped; neither the question nor its answer is part of the conversation]")
        else:
            self.messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": outcome.text}]
            self.kept = "conversation_id" in self.options

    def _obey(self, command: str = "", text: str = "") -> None:
        commands: dict[str, Callable[[str], None]] = {
            "help": self._help,
            "model": self._model,
            "system": self._system,
            "new": self._new,
            "save": self._save,
            "load": self._load,
        }
        commands.get(command, self._help)(text)

    def _help(self, _: str) -> None:
        _tell(
            "/model [NAME]  the models, or another one\n"
            "/system [TEXT] instructions that stand above the conversation; without a text: none\n"
            "/new           begin anew, under the same instructions\n"
            "/save FILE     write the conversation down, as JSON\n"
            "/load FILE     go on with one that was saved\n"
            "/quit          or Ctrl-D; Ctrl-C stops an answer"
        )

    def _model(self, name: str) -> None:
        models = self.client.models()
        if name:
            if name not in [model.name for model in models]:
                raise ValueError(f"there is no model {name!r}; /model lists them")
            self.options["model"] = name
        for model in models:
            chosen = model.name == self.options["model"] if "model" in self.options else model.default
            state = "ready" if model.ready else model.detail or "not ready"
            _tell(f"{'*' if chosen else ' '} {model.name}: {state}")

    def _system(self, text: str) -> None:
        self.kept = False
        self.messages[:] = [message for message in self.messages if message["role"] != "system"]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def _new(self, _: str) -> None:
        self.kept = False
        self.messages[:] = [message for message in self.messages if message["role"] == "system"]

    def _save(self, name: str) -> None:
        if not name:
            raise ValueError("/save needs the name of a file")
        Path(name).expanduser().write_text(json.dumps(self.messages, ensure_ascii=False, indent=2) + "\n")

    def _load(self, name: str) -> None:
        loaded = json.loads(Path(name).expanduser().read_text())
        if not isinstance(loaded, list) or not all(isinstance(one, dict) and "role" in one for one in loaded):
            raise ValueError(f"{name} holds no conversation: a JSON list of messages")
        self.messages[:] = loaded
        self.kept = False
        _tell(f"{len(loaded)} messages")


def _messages_of(client: Client, name: str) -> list[Message]:
    """What was said, once the answer that is being given has been."""
    while (found := client.conversation(name)).open_turn is not None:
        _tell(f"[task {found.open_turn} is answering]")
        with contextlib.suppress(TaskFailed, TaskCancelled):
            client.wait(found.open_turn)
    return found.messages


def _tell(sentence: str) -> None:
    notices().print(sentence, markup=False, soft_wrap=True)


@contextlib.contextmanager
def _history() -> Iterator[None]:
    """Lines can be edited, and those of earlier conversations come back; not where Python has no readline."""
    try:
        import readline
    except ModuleNotFoundError:
        yield
        return
    state = state_folder()
    with contextlib.suppress(OSError):
        readline.read_history_file(state / "history")
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            state.mkdir(parents=True, exist_ok=True, mode=0o700)
            readline.write_history_file(state / "history")
