"""The names of all Redis keys but those that Celery names: the queues' (`celery_app.queue_for`), the results'.

Lua builds the names of a task's, a model's and a tenant's keys by the same rule (lua/prelude.lua); the others it is
given.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Keys:
    """Names under one prefix. Braces are hash tags: all keys of one task share a slot."""

    prefix: str

    def _key(self, kind: str, name: str) -> str:
        return f"{self.prefix}{kind}:{{{name}}}"

    def task(self, task_id: str) -> str:
        """Hash: the task's record."""
        return self._key("task", task_id)

    def events(self, task_id: str) -> str:
        """Stream of the task's events, and the pub/sub channel that announces them."""
        return self._key("events", task_id)

    def waiting(self, model: str) -> str:
        """Sorted set: waiting task ids by time of acceptance, ms."""
        return self._key("waiting", model)

    def front(self, model: str) -> str:
        """Sorted set: those of them that were given back and go first, by time of acceptance, ms (lua/order.lua)."""
        return self._key("front", model)

    def flows(self, model: str) -> str:
        """Sorted set: flows with waiting tasks by their clocks, tokens by weight. A flow is `class:tenant`."""
        return self._key("flows", model)

    def flow(self, name: str) -> str:
        """Sorted set: ids of a flow's waiting tasks by time of acceptance, ms; `model:flow`."""
        return self._key("flow", name)

    def served(self, model: str) -> str:
        """Sorted set: flows without waiting tasks that have had more than others, by their clocks."""
        return self._key("served", model)

    def order(self, model: str) -> str:
        """Hash: the weights of the flows that wait, and the clock of the one that was served last."""
        return self._key("order", model)

    def warm(self, name: str) -> str:
        """Hash: workers by digests of beginnings of prompts that they have computed; `model:ms:n` (lua/warm.lua)."""
        return self._key("warm", name)

    def home(self, name: str) -> str:
        """Sorted set: ids of waiting tasks that are warm at a worker, by time of acceptance, ms; `model:worker`."""
        return self._key("home", name)

    def load(self, model: str) -> str:
        """Hash: tasks that each worker has."""
        return self._key("load", model)

    def running(self, model: str) -> str:
        """Sorted set: running task ids by lease expiry, ms."""
        return self._key("running", model)

    def done(self, model: str) -> str:
        """Hash: tasks that succeeded and the milliseconds they took."""
        return self._key("done", model)

    def workers(self, model: str) -> str:
        """Sorted set: ready workers by the time their heartbeat runs out, ms."""
        return self._key("workers", model)

    def starting(self, model: str) -> str:
        """Hash with a TTL: what each worker that is not ready yet is doing."""
        return self._key("starting", model)

    def model(self, model: str) -> str:
        """JSON of the model card that its workers announce."""
        return self._key("model", model)

    def token_questions(self, model: str) -> str:
        """List: questions about tokens that wait for a ready worker of the model."""
        return self._key("token_questions", model)

    def token_reply(self, number: str) -> str:
        """List of one: a worker's reply to one such question."""
        return self._key("token_reply", number)

    def tenant(self, tenant: str) -> str:
        """Set: ids of the tenant's tasks that have not ended."""
        return self._key("tenant", tenant)

    def conversation(self, tenant: str, conversation_id: str) -> str:
        """Hash: a stored conversation (conversations.py). No tenant has a colon in its name."""
        return self._key("conversation", f"{tenant}:{conversation_id}")

    def conversations(self, tenant: str) -> str:
        """Sorted set: the names of all keys of the tenant's conversations, by when they expire, ms."""
        return self._key("conversations", tenant)

    def idempotency(self, tenant: str, key: str) -> str:
        """Hash: the task that was accepted under the client's key, and the fingerprint of its request."""
        return self._key("idempotency", f"{tenant}:{key}")

    def resent(self, tenant: str, digest: str) -> str:
        """The task that a request's bytes made last; short-lived, for clients that send them again without a key."""
        return self._key("resent", f"{tenant}:{digest}")

    def rate(self, tenant: str) -> str:
        """Hash: what the tenant may still do by the installation's rate (lua/accounts.lua)."""
        return self._key("rate", tenant)

    def account(self, name: str) -> str:
        """Hash: what is left of a key's limits."""
        return self._key("account", name)

    def account_tasks(self, name: str) -> str:
        """Sorted set: ids of the key's tasks that have not ended, by when even their records are gone, ms."""
        return self._key("account_tasks", name)

    def account_waiting(self, name: str) -> str:
        """Sorted set: those of them that wait for a worker."""
        return self._key("account_waiting", name)

    def usage(self, name: str) -> str:
        """Hash: what a tenant used on one day, by model; `tenant:day`, in days since 1970."""
        return self._key("usage", name)

    @property
    def stream_secret(self) -> str:
        """String: what the tokens that open streams are signed with."""
        return f"{self.prefix}stream_secret"

    @property
    def deadlines(self) -> str:
        """Sorted set: ids of all tasks that have not ended, by deadline, ms."""
        return f"{self.prefix}deadlines"

    @property
    def cancel(self) -> str:
        """Pub/sub channel: ids of running tasks to cancel."""
        return f"{self.prefix}cancel"

    @property
    def readers(self) -> str:
        """Sorted set: ids of tasks that are cancelled when nobody reads them, by the time until which one did, ms."""
        return f"{self.prefix}readers"

    @property
    def owner(self) -> str:
        """String: the installation whose keys these are."""
        return f"{self.prefix}owner"

    @property
    def janitor(self) -> str:
        """Lock: the one replica whose janitor works."""
        return f"{self.prefix}janitor"
