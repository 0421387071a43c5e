"""`helm test`: one chat through API, Redis and a worker. Arguments: base URL, model, seconds."""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

KEYS = Path("/etc/headrace/auth/api-keys.json")


def main(base: str, model: str, seconds: float) -> None:
    """Asks one question and reads the stream to its end; resumes where a connection breaks."""
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get("HEADRACE_API_KEY") or plain_key():
        headers["Authorization"] = "Bearer " + key
    until = time.monotonic() + seconds
    question = {"model": model, "message": "What is the capital of France?", "maxTokens": 24, "temperature": 0}
    call = {"jsonrpc": "2.0", "id": 1, "method": "create_message", "params": question}
    answer = json.load(patiently(urllib.request.Request(base + "/rpc", json.dumps(call).encode(), headers), until))
    if "error" in answer:
        sys.exit(f"create_message was refused: {answer['error']}")
    task, last = answer["result"]["taskId"], ""
    print(f"task {task} of model {model}", flush=True)
    while time.monotonic() < until:
        resume = {"Last-Event-ID": last} if last else {}
        with patiently(urllib.request.Request(f"{base}/stream/{task}", headers=headers | resume), until) as stream:
            try:
                for line in stream:
                    field, _, value = line.decode().rstrip("\n").partition(": ")
                    if field == "id":
                        last = value
                    elif field == "data":
                        event = json.loads(value)
                        show(event)
                        if event["type"] == "end":
                            sys.exit(event["state"] != "SUCCESS" and f"the task ended in {event['state']}")
            except OSError as broken:
                print(f"the stream broke ({broken}); resuming after {last or 'its start'}", flush=True)
    sys.exit(f"no answer within {seconds:.0f} s")


def plain_key() -> str:
    """A key of a file that holds them in plain text; empty where none is asked for."""
    if not KEYS.exists():
        return ""
    keys = json.loads(KEYS.read_text())
    if not all(isinstance(tenant, str) for tenant in keys.values()):
        sys.exit(
            "the API asks for a key, and only hashes are kept: helmTest.apiKeySecret names a Secret that holds one"
        )
    return next(iter(keys))


def patiently(request: urllib.request.Request, until: float):
    """The response; a server that is not there yet is asked again."""
    while True:
        try:
            return urllib.request.urlopen(request, timeout=60)
        except urllib.error.HTTPError as refusal:
            if refusal.code < 500 or time.monotonic() > until:
                sys.exit(f"{request.full_url} answered {refusal.code}: {refusal.read(300)!r}")
        except OSError as error:
            if time.monotonic() > until:
                sys.exit(f"{request.full_url} cannot be reached: {error}")
        time.sleep(1)


def show(event: dict) -> None:
    match event["type"]:
        case "status":
            print({key: event[key] for key in ("state", "position", "detail", "attempt") if key in event}, flush=True)
        case "final_text":
            print("answer:", event["text"], flush=True)
        case "error":
            print("error:", event["message"], flush=True)


main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
