"""`headrace up`: the local stack, one question, and then a prompt or just the stack until Ctrl-C."""

import signal
import sys
import threading

from headrace.calls import Message
from headrace.cli.conversation import Conversation, answer
from headrace.client import Client
from headrace.local.plan import Plan, StackError
from headrace.local.report import Report
from headrace.local.stack import Stack


def run(plan: Plan, question: str | None, *, once: bool) -> None:
    """Returns after Ctrl-C or SIGTERM, with `once` after the answer; raises a HeadraceError for anything else."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    report = Report()
    stack = Stack(plan, report)
    messages: list[Message] = []
    try:
        with report:
            stack.start()
        with Client(stack.url, api_key=plan.api_key) as client:
            if question is not None:
                print(f"\nYou: {question}\n", flush=True)
                messages.append({"role": "user", "content": question})
                outcome = answer(client, messages, {"temperature": 0, "max_tokens": 200})
                messages.append({"role": "assistant", "content": outcome.text})
            if once:
                return
            report.tell(f"The chat page: {stack.url}/")
            report.tell(f"Headrace is up at {stack.url}; Ctrl-C stops it. Logs: {plan.data_dir / 'logs'}")
            if sys.stdin.isatty():
                Conversation(client, {}, messages).run()
            else:
                threading.Event().wait()
    except KeyboardInterrupt:
        pass
    finally:
        report.tell("Stopping.")
        stack.stop()
    if stack.failure is not None:
        raise StackError(stack.failure)
