"""Talking with a model on a terminal: answers as they come, `/commands`, a history."""

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headrace.calls import Message, Options
from headrace.cli.answer_view import answer_view
from headrace.cli.common import notices
from headrace.cli.started import start, state_folder
from headrace.client import Client
from headrace.errors import HeadraceError
from headrace.events import FinalText, Outcome, ToolCalls
from headrace.following import ending

HISTORY_LINES = 1000


def answer(client: Client, messages: list[Message], options: Options) -> FinalText | ToolCalls:
    """Asks, shows the text as it arrives, and returns the whole. Ctrl-C cancels the task and is raised again."""
    task_id = start(client, messages, options)
    try:
        return follow(client, task_id)
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


@dataclass
class Conversation:
    """What has been said, and how the next answer is asked for."""

    client: Client
    options: Options
    messages: list[Message] = field(default_factory=list)

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
        self.messages.append({"role": "user", "content": prompt})
        try:
            outcome = answer(self.client, self.messages, self.options)
        except KeyboardInterrupt:
            self.messages.pop()
            _tell("[stopped; neither the question nor its answer is part of the conversation]")
        except HeadraceError:
            self.messages.pop()
            raise
        else:
            self.messages.append({"role": "assistant", "content": outcome.text})

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
        self.messages[:] = [message for message in self.messages if message["role"] != "system"]
        if text:
            self.messages.insert(0, {"role": "system", "content": text})

    def _new(self, _: str) -> None:
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
        _tell(f"{len(loaded)} messages")


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
