"""Two tenants at two replicas do whatever comes to anybody's mind, at every door, with each other's ids and with none.

Every request is answered in time and without a fault of the server; what is another's is what has never been there; and
when all is over nothing is left. `make attack` goes on for much longer.
"""

import contextlib
import json
import os
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from api.errors import CONVERSATION_NOT_FOUND, TASK_NOT_FOUND
from api.tenants.key_file import sha256_of
from testbed import judged_api, services
from testbed.fake_worker import DEFAULT_MODEL
from testbed.footprint import Footprint
from testbed.ports import free_port
from testbed.stack import Process
from testbed.valkey import Valkey
from testbed.waiting import wait_until

EXAMPLES = int(os.environ.get("ATTACK_EXAMPLES", "6"))
STEPS = 50
SECONDS = 20
"""Within which everything is answered. A task's deadline is half of it."""
WARM_UP_EXAMPLES = 2
TENANTS = ("alpha", "beta")
KEPT_SECONDS = 2
"""Whatever has ended, or was said, is gone then."""
NOT_READY = 503
"""The one status above 499 that may be: a worker that is asked about tokens may be busy."""
MORE_FILES = 40
"""Connections to Valkey: there are as many as were needed at the same time, most of all by the janitor."""
MORE_BYTES = 8 * 2**20
"""Resident memory, however much was asked."""
SECRET = "secret-of-{}"
"""Is in all that the tenant writes, and must be in nothing that the other reads."""
LASTING = re.compile(rb"headrace:(_kombu|done|janitor|model|order|served|stream_secret|usage|warm|workers)\b")
"""Keys of models, tenants and queues: there are as many as of these."""
EXPIRING = re.compile(rb"headrace:(conversations?|resent)\b")
"""Those of a turn that was cancelled, and digests of requests, which may be sent again: gone within an hour."""


class Arena:
    """Valkey, a worker and two replicas, and how they are asked."""

    def __init__(self, folder: Path) -> None:
        self.sent = 0
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self._stack = contextlib.ExitStack()
        self.valkey = self._stack.enter_context(Valkey(folder / "valkey"))
        self._faults = folder / "faults"
        keys = {"keys": [{"id": name, "tenant": name, "sha256": sha256_of(f"hr_{name}")} for name in TENANTS]}
        both = services.settings(
            redis_url=self.valkey.url,
            retention_seconds=KEPT_SECONDS,
            unstored_seconds=KEPT_SECONDS,
            conversation_seconds=KEPT_SECONDS,
        )
        api = both | services.settings(
            api_keys=json.dumps(keys),
            response_seconds=KEPT_SECONDS,
            default_timeout_seconds=SECONDS / 2,
            max_timeout_seconds=SECONDS / 2,
            max_tenant_tasks=100_000,
            max_waiting=100_000,
            log_level="WARNING",
        )
        self.replicas: list[Process] = []
        """One as it is, and one whose replies are judged."""
        self._clients: list[httpx.Client] = []
        self._second_ports: list[httpx.Client] = []
        judged = [sys.executable, *judged_api.COMMAND]
        for name, command in (("plain", services.command("api")), ("judged", judged)):
            port, second = free_port(), free_port()
            env = {**os.environ, **api, **services.settings(port=port, internal_port=second)}
            self.replicas.append(self._started(name, command, env | judged_api.environment(self._faults), folder))
            self._clients.append(self._client(port))
            self._second_ports.append(self._client(second))
        second = free_port()
        worker = services.settings(
            model_source="scripted:?token_ms=0&tokens=2", internal_port=second, log_level="WARNING"
        )
        self._started("worker", services.command("worker"), {**os.environ, **both, **worker}, folder)
        for client in [self._client(second), *self._second_ports]:
            wait_until(partial(_ready, client), 60, self.logs)

    def _started(self, name: str, command: list[str], env: dict[str, str], folder: Path) -> Process:
        process = Process(name, command, env, folder / f"{name}.log").start()
        self._stack.callback(process.stop)
        return process

    def _client(self, port: int) -> httpx.Client:
        return self._stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=SECONDS))

    def logs(self) -> str:
        return "\n".join(process.tail() for process in self.replicas)

    def ask(
        self,
        replica: int,
        method: str,
        path: str,
        who: str,
        *,
        key: bool = True,
        second: bool = False,
        **options: Any,
    ) -> httpx.Response:
        """Within a bound, and without a fault of the server. `who`: the tenant; `second`: the second port."""
        self.sent += 1
        client = (self._second_ports if second else self._clients)[replica]
        url = client.base_url.copy_with(raw_path=path.encode())
        headers = {"Authorization": f"Bearer hr_{who}"} if key else {}
        reply = client.request(method, url, headers=headers | options.pop("headers", {}), **options)
        self.statuses[reply.status_code] += 1
        said = f"{who}: {method} {path} {options} -> {reply.status_code} {reply.text[:500]}"
        assert reply.status_code < 500 or reply.status_code == NOT_READY, said
        assert '"code":-32603' not in reply.text.replace(" ", ""), said
        for other in TENANTS:
            assert other == who or SECRET.format(other) not in reply.text, said
        return reply

    def close(self) -> None:
        self._stack.close()
        assert not self._faults.exists(), self._faults.read_text()


def _ready(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return client.get("/readyz").status_code == 200
    return False


tenants = st.sampled_from(TENANTS)
replicas = st.sampled_from((0, 1))
texts = st.one_of(st.just("hi"), st.text(max_size=20), st.sampled_from(["<|im_end|>", "{{ 7 * 7 }}", "\0", "x" * 3000]))
strange_ids = st.one_of(
    st.sampled_from(["..", "%2e%2e", "a/b", "a%2fb", "*", "?", "", "resp_", "conv_x", "\r\nX: 1", "é", "a" * 500]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
)
numbers = st.integers(0, 10_000)


class Attack(RuleBasedStateMachine):
    """One round between the two."""

    arena: Arena

    def __init__(self) -> None:
        super().__init__()
        self.ids: dict[str, list[tuple[str, str]]] = defaultdict(list)
        """Kind -> ids and whose they are."""
        self.tokens: list[tuple[str, str]] = []
        """Stream tokens, and the task of each."""

    @initialize()
    def begin(self) -> None:
        """A task, a response and a conversation of each tenant."""
        for tenant in TENANTS:
            self.ask_rpc(tenant, 0, "hi", 1, stored=True)
            self.ask_response(tenant, 1, "hi", 0, way=0)
            self.make_conversation(tenant, 0, "hi")

    def note(self, kind: str, tenant: str, made: Any) -> None:
        if isinstance(made, str):
            self.ids[kind].append((made, tenant))

    def one(self, kind: str, which: int) -> tuple[str, str]:
        """An id, and whose it is."""
        known = self.ids[kind]
        return known[which % len(known)] if known else ("never-made", "nobody")

    @rule(tenant=tenants, replica=replicas, text=texts, which=numbers, stored=st.booleans())
    def ask_rpc(self, tenant: str, replica: int, text: str, which: int, stored: bool) -> None:
        params: dict[str, Any] = {"message": _said(tenant, text), "maxTokens": 4, "store": which % 5 > 0 or stored}
        conversation, owner = self.one("conversation", which)
        if stored and which % 2:
            params["conversationId"] = conversation
        elif stored:
            params |= {"conversationId": f"named{which % 5}", "history": []}  # the same for both tenants, too
        elif which % 3 == 0:
            params["idempotencyKey"] = f"key{which % 4}"  # the same for both tenants
        made = self._call(tenant, replica, "create_message", params)
        if stored and which % 2 and owner != tenant:
            assert made["error"]["code"] == CONVERSATION_NOT_FOUND, made
        if "result" in made:
            task = made["result"]["taskId"]
            whose = {owner for known, owner in self.ids["task"] if known == task}
            assert whose <= {tenant}, "a task of another tenant's"
            self.note("task", tenant, task)

    @rule(tenant=tenants, replica=replicas, text=texts, which=numbers, stream=st.booleans())
    def ask_chat(self, tenant: str, replica: int, text: str, which: int, stream: bool) -> None:
        messages = [{"role": "user", "content": _said(tenant, text)}]
        doors: list[tuple[str, dict[str, Any]]] = [
            ("/v1/chat/completions", {"messages": messages}),
            ("/v1/completions", {"prompt": _said(tenant, text)}),
            ("/v1/messages", {"messages": messages}),
        ]
        path, body = doors[which % 3]
        body |= {"model": DEFAULT_MODEL, "max_tokens": 4, "stream": stream}
        reply = self.arena.ask(replica, "POST", path, tenant, json=body)
        self.note("task", tenant, reply.headers.get("x-headrace-task-id"))

    @rule(tenant=tenants, replica=replicas, text=texts, which=numbers)
    def count(self, tenant: str, replica: int, text: str, which: int) -> None:
        messages = [{"role": "user", "content": _said(tenant, text)}]
        doors: list[tuple[str, dict[str, Any]]] = [
            ("/tokenize", {"prompt": _said(tenant, text)}),
            ("/tokenize", {"messages": messages}),
            ("/detokenize", {"tokens": [which, which % 7]}),
            ("/v1/messages/count_tokens", {"messages": messages}),
            ("/v1/responses/input_tokens", {"input": text, "previous_response_id": self.one("response", which)[0]}),
            ("/v1/responses/input_tokens", {"input": text, "conversation": self.one("conversation", which)[0]}),
        ]
        path, body = doors[which % 6]
        reply = self.arena.ask(replica, "POST", path, tenant, json=body | {"model": DEFAULT_MODEL})
        for at, kind in ((4, "response"), (5, "conversation")):
            if which % 6 == at and self.one(kind, which)[1] != tenant:
                assert reply.status_code in (400, 404), reply.text

    @rule(tenant=tenants, replica=replicas, text=texts)
    def ask_the_page(self, tenant: str, replica: int, text: str) -> None:
        content, headers = _said(tenant, text).encode(errors="surrogatepass"), {"Content-Type": "text/markdown"}
        self.arena.ask(replica, "POST", "/page/markdown", tenant, content=content, headers=headers)
        self.arena.ask(replica, "GET", f"/page/{_spelt(text)}", tenant, key=False)

    @rule(tenant=tenants, replica=replicas, text=texts, which=numbers, way=st.integers(0, 6))
    def ask_response(self, tenant: str, replica: int, text: str, which: int, way: int) -> None:
        body: dict[str, Any] = {"model": DEFAULT_MODEL, "input": _said(tenant, text), "max_output_tokens": 16}
        reference = [{"type": "item_reference", "id": self.one("item", which)[0]}, {"role": "user", "content": "go on"}]
        ways: list[dict[str, Any]] = [
            {},
            {"stream": True},
            {"background": True},
            {"store": False},
            {"previous_response_id": self.one("response", which)[0]},
            {"conversation": self.one("conversation", which)[0]},
            {"input": reference},
        ]
        body |= ways[way]
        reply = self.arena.ask(replica, "POST", "/v1/responses", tenant, json=body)
        used = {4: "response", 5: "conversation", 6: "item"}.get(way)
        if used is not None and self.one(used, which)[1] != tenant:
            assert reply.status_code in (400, 404), reply.text
        if reply.status_code == 200 and way not in (1, 3):
            made = reply.json()
            self.note("response", tenant, made["id"])
            for item in made["output"]:
                self.note("item", tenant, item["id"])

    @rule(tenant=tenants, replica=replicas, text=texts)
    def make_conversation(self, tenant: str, replica: int, text: str) -> None:
        body = {"items": [{"role": "user", "content": _said(tenant, text)}], "metadata": {"a": "b"}}
        reply = self.arena.ask(replica, "POST", "/v1/conversations", tenant, json=body)
        if reply.status_code == 200:
            self.note("conversation", tenant, reply.json()["id"])

    @rule(tenant=tenants, replica=replicas, which=numbers, use=st.integers(0, 10_000))
    def use_an_id(self, tenant: str, replica: int, which: int, use: int) -> None:
        """Whosever it is; for another it is what has never been made."""
        kind, asked = USES[use % len(USES)]
        name, owner = self.one(kind, which)
        reply = asked(self.arena, replica, tenant, name)
        if owner == tenant:
            if asked is TOKEN and "result" in reply.json():
                self.tokens.append((reply.json()["result"]["streamToken"], name))
            return
        unmade = name[:-1] + ("0" if name[-1] != "0" else "1")
        never = asked(self.arena, replica, tenant, unmade)
        if _told(reply, name) != _told(never, unmade):  # perhaps it expired between the two
            reply = asked(self.arena, replica, tenant, name)
        assert _told(reply, name) == _told(never, unmade), f"{kind} of {owner} for {tenant}"

    @rule(tenant=tenants, replica=replicas, use=numbers, name=strange_ids)
    def use_a_strange_id(self, tenant: str, replica: int, use: int, name: str) -> None:
        USES[use % len(USES)][1](self.arena, replica, tenant, name)

    @rule(
        replica=replicas, which=numbers, other=numbers, cut=st.integers(0, 300), put=st.text("abcXYZ019._-", max_size=3)
    )
    def open_with_a_token(self, replica: int, which: int, other: int, cut: int, put: str) -> None:
        """Of this task, of another one, or edited."""
        if not self.tokens:
            return
        token, task = self.tokens[which % len(self.tokens)]
        edited = token[:cut] + put + token[cut + len(put) :]
        asked = self.one("task", other)[0] if other % 2 else task
        owner = next(owner for known, owner in self.ids["task"] if known == task)
        reply = self.arena.ask(replica, "GET", f"/stream/{asked}?stream_token={edited}", owner, key=False)
        # The last letter has two bits that mean nothing.
        good = asked == task and edited[:-1] == token[:-1] and len(edited) == len(token)
        assert reply.status_code == 401 or good, (edited, reply.status_code)

    @rule(tenant=tenants, replica=replicas, method=texts, params=st.recursive(st.none() | texts | numbers, st.lists))
    def call_nonsense(self, tenant: str, replica: int, method: str, params: Any) -> None:
        self._call(tenant, replica, method, params)

    @rule(tenant=tenants, replica=replicas, calls=st.lists(st.tuples(st.integers(0, 4), numbers), max_size=5))
    def call_a_batch(self, tenant: str, replica: int, calls: list[tuple[int, int]]) -> None:
        names = ["get_message", "cancel_message", "stream_token", "model_list", "tool_list"]
        batch = [
            {"jsonrpc": "2.0", "id": at, "method": names[name]}
            | ({"params": {"taskId": self.one("task", which)[0]}} if name < 3 else {})
            for at, (name, which) in enumerate(calls)
        ]
        reply = self.arena.ask(replica, "POST", "/rpc", tenant, json=batch)
        for answer in reply.json() if batch else []:
            name, which = calls[answer["id"]]
            foreign = name < 3 and self.one("task", which)[1] != tenant
            assert not foreign or answer["error"]["code"] == TASK_NOT_FOUND, answer

    @rule(tenant=tenants, replica=replicas, days=st.integers(-5, 50), other=tenants)
    def ask_for_use(self, tenant: str, replica: int, days: int, other: str) -> None:
        reply = self._call(tenant, replica, "usage", {"days": days, "tenant": other})
        assert other == tenant or "error" in reply, reply

    @rule(tenant=tenants, replica=replicas, which=numbers, name=strange_ids)
    def come_with_two_keys(self, tenant: str, replica: int, which: int, name: str) -> None:
        """In one header, in two, in the query, or with what is none: as nobody."""
        other = {"alpha": "beta", "beta": "alpha"}[tenant]
        path, headers = [
            ("/v1/models", {"Authorization": f"Bearer hr_{tenant}, Bearer hr_{other}"}),
            ("/v1/messages", {"Authorization": f"Bearer hr_{other}", "x-api-key": f"hr_{tenant}"}),
            (f"/stream/{self.one('task', which)[0]}", {"Authorization": f"Bearer hr_{tenant}x"}),
            (f"/stream/{self.one('task', which)[0]}?access_token=hr_nobody", {}),
            ("/v1/models/never-made", {"Authorization": f"Basic hr_{tenant}"}),
            (f"/v1/streams/{self.one('task', which)[0]}?stream_token={_spelt(name)}", {}),
        ][which % 6]
        method = "POST" if path == "/v1/messages" else "GET"
        reply = self.arena.ask(replica, method, path, "nobody", key=False, headers=headers)
        assert reply.status_code == 401, (path, headers, reply.text)

    @rule(tenant=tenants, replica=replicas, which=numbers, name=strange_ids)
    def look_at_the_second_port(self, tenant: str, replica: int, which: int, name: str) -> None:
        path = ["/metrics", "/healthz", "/readyz", f"/internal/scaling/{_spelt(name)}", f"/{_spelt(name)}"][which % 5]
        self.arena.ask(replica, "GET", path, "nobody", key=False, second=True)

    def _call(self, tenant: str, replica: int, method: str, params: Any) -> dict[str, Any]:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
        headers = {"Content-Type": "application/json"}
        reply = self.arena.ask(replica, "POST", "/rpc", tenant, content=body, headers=headers)
        return dict(reply.json())


def _said(tenant: str, text: str) -> str:
    return f"{text} {SECRET.format(tenant)}"


def _spelt(name: str) -> str:
    """Every byte of it in a path, as nobody can misread it."""
    return "".join(f"%{byte:02x}" for byte in name.encode())


Use = Callable[[Arena, int, str, str], httpx.Response]


def _rpc(method: str) -> Use:
    def use(arena: Arena, replica: int, tenant: str, name: str) -> httpx.Response:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {"taskId": name}}
        return arena.ask(replica, "POST", "/rpc", tenant, json=body)

    return use


def _http(method: str, path: str, **options: Any) -> Use:
    def use(arena: Arena, replica: int, tenant: str, name: str) -> httpx.Response:
        return arena.ask(replica, method, path.format(_spelt(name)), tenant, **options)

    return use


ITEM = {"items": [{"role": "user", "content": "more"}]}
TOKEN = _rpc("stream_token")
USES: list[tuple[str, Use]] = [
    ("task", _rpc("get_message")),
    ("task", _rpc("cancel_message")),
    ("task", TOKEN),
    ("task", _http("GET", "/stream/{}")),
    ("task", _http("HEAD", "/stream/{}")),
    ("task", _http("GET", "/stream/{}", headers={"Last-Event-ID": "1-0"})),
    ("task", _http("GET", "/v1/streams/{}")),
    ("task", _http("HEAD", "/v1/streams/{}")),
    ("task", _http("GET", "/v1/streams/{}?offset=-1&live=sse")),
    ("task", _http("GET", "/v1/streams/{}?offset=now")),
    ("response", _http("GET", "/v1/responses/{}")),
    ("response", _http("GET", "/v1/responses/{}?stream=true")),
    ("response", _http("GET", "/v1/responses/{}?stream=true&starting_after=1")),
    ("response", _http("GET", "/v1/responses/{}/input_items")),
    ("response", _http("POST", "/v1/responses/{}/cancel")),
    ("response", _http("DELETE", "/v1/responses/{}")),
    ("conversation", _http("GET", "/v1/conversations/{}")),
    ("conversation", _http("POST", "/v1/conversations/{}", json={"metadata": {"c": "d"}})),
    ("conversation", _http("GET", "/v1/conversations/{}/items")),
    ("conversation", _http("POST", "/v1/conversations/{}/items", json=ITEM)),
    ("conversation", _http("DELETE", "/v1/conversations/{}")),
    ("conversation", _http("GET", "/v1/conversations/{}/items/never-made")),
    ("conversation", _http("DELETE", "/v1/conversations/{}/items/never-made")),
]
"""What takes an id, and of what it is one."""


def _told(reply: httpx.Response, name: str) -> tuple[int, str]:
    return reply.status_code, reply.text.replace(name, "ID")


@pytest.fixture(scope="module")
def arena(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arena]:
    arena = Arena(tmp_path_factory.mktemp("arena"))
    yield arena
    arena.close()


def test_two_tenants_who_do_everything_get_no_fault_and_nothing_of_each_other(arena: Arena) -> None:
    def run(examples: int) -> None:
        bounds = settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            derandomize="ATTACK_EXAMPLES" not in os.environ,
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            phases=[Phase.generate],  # the error names the request; the server is not the same when it comes again
        )
        run_state_machine_as_test(type("Attack", (Attack,), {"arena": arena}), settings=bounds)

    run(WARM_UP_EXAMPLES)  # pools fill, and the first of everything is made
    before, sent = [Footprint.of(replica.pid) for replica in arena.replicas], arena.sent
    began = time.monotonic()
    run(EXAMPLES)
    seconds = time.monotonic() - began
    with arena.valkey.client() as redis:

        def left() -> list[bytes]:
            ending = [key for key in redis.scan_iter(count=1000) if not LASTING.match(key)]
            return [key for key in ending if not EXPIRING.match(key) or redis.ttl(key) == -1]

        wait_until(lambda: not left(), 2 * SECONDS, lambda: f"left behind: {left()[:10]}")
    after = [Footprint.of(replica.pid) for replica in arena.replicas]
    count = arena.sent - sent
    growth = [new.since(old) for new, old in zip(after, before, strict=True)]
    sys.stdout.write(f"{count} requests in {seconds:.0f} s: {dict(sorted(arena.statuses.items()))}, growth {growth}\n")
    assert max(grown["files"] for grown in growth) <= MORE_FILES
    assert growth[0]["kilobytes"] << 10 <= MORE_BYTES  # the judge beside the other one keeps what it has seen
