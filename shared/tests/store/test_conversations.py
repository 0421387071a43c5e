"""Stored conversations and their turns, on a real Valkey."""

import asyncio
import json
from typing import Any

import pytest
from redis.asyncio import Redis

from shared.store.conversations import Conversations, ConversationSave, StoredConversation, conversation_json
from shared.store.keys import Keys
from shared.store.refusals import ConversationBusy, ConversationChanged, ConversationsFull
from shared.store.task_ledger import TaskLedger
from shared.store.task_record import Acceptance
from shared.wire.chat import AssistantMessage, ChatMessage, UserMessage
from testbed.ledger_steps import REQUEST, accept, answer, claim, failure
from testbed.waiting import until


def asking(text: str) -> UserMessage:
    return UserMessage(role="user", content=text)


def saying(text: str) -> AssistantMessage:
    return AssistantMessage(role="assistant", content=text)


REQUEST_OF_C = REQUEST.model_copy(update={"conversation_id": "c"})


async def begin(ledger: TaskLedger, built_on: str | None = None, **changes: Any) -> str:
    """A turn of the conversation `c`: its task waits."""
    return await accept(ledger, request=REQUEST_OF_C, built_on=built_on, **changes)


async def save(ledger: TaskLedger, task_id: str, attempt: int, *messages: ChatMessage, seconds: float = 60) -> bool:
    kept = ConversationSave(conversation_json(messages), seconds)
    return await ledger.end(task_id, attempt, "SUCCESS", answer(task_id), save=kept)


async def answered(ledger: TaskLedger, *messages: ChatMessage, built_on: str | None = None) -> str:
    """A turn from its acceptance to its answer."""
    task_id = await begin(ledger, built_on)
    await claim(ledger, task_id)
    assert await save(ledger, task_id, 1, *messages)
    return task_id


async def error_of(ledger: TaskLedger, task_id: str) -> dict[str, Any]:
    record = await ledger.get(task_id)
    assert record is not None
    assert record.wire_state == "FAILURE"
    error: dict[str, Any] = json.loads(record.outcome)
    return error


async def test_a_tenant_keeps_so_many_conversations_and_those_that_are_gone_do_not_count(
    ledger: TaskLedger, conversations: Conversations, redis: Redis, keys: Keys
) -> None:
    async def keep(name: str, *, seconds: float = 60, tenant: str = "t") -> None:
        await conversations.save(tenant, name, [asking("hi")], seconds=seconds, most=2)

    await keep("a")
    await keep("b", seconds=0.05)
    with pytest.raises(ConversationsFull):
        await keep("c")
    with pytest.raises(ConversationsFull):
        await begin(ledger, max_conversations=2)
    assert await redis.scard(keys.tenant("t")) == 0
    await keep("a")
    await keep("c", tenant="another")

    async def is_gone() -> bool:
        return await conversations.load("t", "b") is None

    await until(is_gone, 5)
    task_id = await begin(ledger, max_conversations=2)
    assert await redis.zcard(keys.conversations("t")) == 2
    with pytest.raises(ConversationsFull):
        await keep("d")
    await claim(ledger, task_id)
    assert await save(ledger, task_id, 1, asking("hi"), saying("yes"), seconds=30)
    assert await redis.zscore(keys.conversations("t"), keys.conversation("t", "c")) == await redis.pexpiretime(
        keys.conversation("t", "c")
    )
    assert await conversations.delete("t", "a")
    await keep("d")


async def test_fifty_at_once_make_no_more_conversations_than_there_may_be(
    conversations: Conversations, redis: Redis, keys: Keys
) -> None:
    async def keep(number: int) -> bool:
        try:
            await conversations.save("t", str(number), [asking("hi")], seconds=60, most=7)
        except ConversationsFull:
            return False
        return True

    assert sum(await asyncio.gather(*map(keep, range(50)))) == 7


async def test_a_turn_is_open_until_its_task_ends_and_its_answer_is_the_next_version(
    ledger: TaskLedger, conversations: Conversations
) -> None:
    assert await conversations.load("t", "c") is None
    task_id = await begin(ledger)
    assert await conversations.load("t", "c") == StoredConversation([], None, open_turn=task_id)
    await claim(ledger, task_id)
    assert await save(ledger, task_id, 1, asking("hi"), saying("hello"))
    assert await conversations.load("t", "c") == StoredConversation([asking("hi"), saying("hello")], version=task_id)
    assert await conversations.load("another", "c") is None


async def test_of_two_turns_at_once_the_second_is_refused_and_leaves_nothing(
    ledger: TaskLedger, conversations: Conversations, redis: Redis
) -> None:
    version = await answered(ledger, asking("hi"), saying("hello"))
    turns = await asyncio.gather(*(begin(ledger, version) for _ in range(20)), return_exceptions=True)
    accepted = [turn for turn in turns if isinstance(turn, str)]
    refused = [turn for turn in turns if isinstance(turn, ConversationBusy)]
    assert (len(accepted), len(refused)) == (1, 19)
    assert {refusal.task_id for refusal in refused} == set(accepted)
    assert len([key async for key in redis.scan_iter(match="*task:*")]) == 2


async def test_a_turn_may_not_build_on_a_version_that_is_not_the_newest(
    ledger: TaskLedger, conversations: Conversations
) -> None:
    first = await answered(ledger, asking("a"), saying("A"))
    second = await answered(ledger, asking("a"), saying("A"), asking("b"), saying("B"), built_on=first)
    for stale in (first, "never"):
        with pytest.raises(ConversationChanged):
            await begin(ledger, stale)
    stored = await conversations.load("t", "c")
    assert stored is not None
    assert (len(stored.messages), stored.version) == (4, second)


async def test_a_turn_that_builds_on_what_has_expired_is_refused(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    version = await answered(ledger, asking("a"), saying("A"))
    await redis.delete(keys.conversation("t", "c"))
    with pytest.raises(ConversationChanged):
        await begin(ledger, version)


ENDINGS = ["cancelled", "cancelled while it ran", "failed", "overdue", "poisoned"]
"""Without an answer."""


async def end(ledger: TaskLedger, turn: str, ending: str) -> None:
    match ending:
        case "cancelled":
            await ledger.cancel(turn, "t")
        case "cancelled while it ran":
            await claim(ledger, turn)
            await ledger.cancel(turn, "t")
            with pytest.raises(ConversationBusy):
                await begin(ledger)
            assert await ledger.end(turn, 1, "REVOKED", None)
        case "failed":
            await claim(ledger, turn)
            assert await ledger.end(turn, 1, "FAILURE", failure(turn))
        case "overdue":
            assert await ledger.end(turn, None, "FAILURE", failure(turn))
        case "poisoned":
            for attempt in (1, 2, 3):
                await claim(ledger, turn)
                await ledger.requeue(turn, attempt, "crash")


@pytest.mark.parametrize("ending", [*ENDINGS, "vanished"])
async def test_a_turn_that_ends_without_an_answer_leaves_the_conversation_free_at_once_and_as_it_was(
    ledger: TaskLedger, conversations: Conversations, redis: Redis, keys: Keys, ending: str
) -> None:
    version = await answered(ledger, asking("a"), saying("A"))
    turn = await begin(ledger, version)
    if ending == "vanished":
        await redis.delete(keys.task(turn))
    else:
        await end(ledger, turn, ending)
    stored = StoredConversation([asking("a"), saying("A")], version)
    assert await conversations.load("t", "c") == stored
    again = await begin(ledger, version)
    assert await conversations.load("t", "c") == StoredConversation(stored.messages, version, open_turn=again)


@pytest.mark.parametrize("ending", ENDINGS)
async def test_a_first_turn_that_ends_without_an_answer_leaves_no_conversation_that_counts(
    ledger: TaskLedger, redis: Redis, keys: Keys, ending: str
) -> None:
    for _ in range(3):
        turn = await begin(ledger, max_conversations=1)
        await end(ledger, turn, ending)
        assert await redis.exists(keys.conversation("t", "c")) == 0
        assert await redis.zcard(keys.conversations("t")) == 0


async def test_a_conversation_without_messages_that_a_client_made_outlives_a_turn_that_fails(
    ledger: TaskLedger, conversations: Conversations
) -> None:
    made = await conversations.save("t", "c", [], seconds=60)
    await end(ledger, await begin(ledger, made.version), "failed")
    assert await conversations.load("t", "c") == made


async def test_a_turn_stays_open_while_its_task_goes_from_worker_to_worker(
    ledger: TaskLedger, conversations: Conversations
) -> None:
    turn = await begin(ledger)
    await claim(ledger, turn)
    await ledger.requeue(turn, 1, "handover")
    with pytest.raises(ConversationBusy):
        await begin(ledger)
    await claim(ledger, turn, lease=0)
    await ledger.take_from_dead(turn)
    await claim(ledger, turn)
    assert not await save(ledger, turn, 2, asking("a"), saying("of a worker that lost its lease"))
    assert await save(ledger, turn, 3, asking("a"), saying("A"))
    assert await conversations.load("t", "c") == StoredConversation([asking("a"), saying("A")], turn)


async def test_an_ending_that_is_written_again_changes_nothing(
    ledger: TaskLedger, conversations: Conversations
) -> None:
    first = await answered(ledger, asking("a"), saying("A"))
    second = await answered(ledger, asking("b"), saying("B"), built_on=first)
    assert not await save(ledger, first, 1, asking("a"), saying("A"))
    assert await conversations.load("t", "c") == StoredConversation([asking("b"), saying("B")], second)


async def test_an_acceptance_that_is_sent_again_is_no_second_turn(ledger: TaskLedger) -> None:
    keyed = {"idempotency_key": "k", "fingerprint": "f"}
    turn = await begin(ledger, **keyed)
    assert await begin(ledger, **keyed) == turn
    assert await begin(ledger, task_id=turn) == turn
    await claim(ledger, turn)
    await save(ledger, turn, 1, asking("a"), saying("A"))
    assert await begin(ledger, **keyed) == turn
    for tenant, found in (("t", Acceptance(turn, "m", new=False)), ("another", None)):
        assert await ledger.find(tenant, idempotency_key="k", fingerprint="f", resent=None) == found


async def test_a_conversation_does_not_expire_under_its_open_turn(
    ledger: TaskLedger, conversations: Conversations, redis: Redis, keys: Keys
) -> None:
    first = await begin(ledger)
    await claim(ledger, first)
    await save(ledger, first, 1, asking("a"), saying("A"), seconds=5)
    assert 0 < await redis.pttl(keys.conversation("t", "c")) <= 5_000
    turn = await begin(ledger, first, timeout_seconds=600)
    assert await redis.pttl(keys.conversation("t", "c")) > 600_000
    await claim(ledger, turn)
    await save(ledger, turn, 1, asking("b"), saying("B"), seconds=5)
    assert 0 < await redis.pttl(keys.conversation("t", "c")) <= 5_000


async def test_a_turn_whose_conversation_was_started_anew_fails_instead_of_overwriting_it(
    ledger: TaskLedger, conversations: Conversations, redis: Redis, keys: Keys
) -> None:
    old = await begin(ledger)
    await claim(ledger, old)
    await redis.delete(keys.conversation("t", "c"))
    new = await answered(ledger, asking("b"), saying("B"))
    assert not await save(ledger, old, 1, asking("a"), saying("A"))
    error = await error_of(ledger, old)
    assert (error["code"], error["retryable"]) == ("conversation_changed", True)
    assert await conversations.load("t", "c") == StoredConversation([asking("b"), saying("B")], new)


async def test_a_conversation_that_redis_lost_is_saved_whole_by_its_open_turn(
    ledger: TaskLedger, conversations: Conversations, redis: Redis, keys: Keys
) -> None:
    turn = await begin(ledger)
    await claim(ledger, turn)
    await redis.delete(keys.conversation("t", "c"))
    assert await save(ledger, turn, 1, asking("a"), saying("A"))
    assert await conversations.load("t", "c") == StoredConversation([asking("a"), saying("A")], turn)


async def test_a_conversation_of_another_tenant_has_its_own_turns(ledger: TaskLedger) -> None:
    await begin(ledger)
    assert await begin(ledger, tenant="another")


async def test_a_client_changes_a_conversation_between_its_turns(
    conversations: Conversations, keys: Keys, redis: Redis
) -> None:
    made = await conversations.save("t", "c", [asking("hi")], seconds=60, metadata={"a": "b"})
    assert (made.messages, made.metadata) == ([asking("hi")], {"a": "b"})
    assert made.created > 0
    assert await conversations.load("t", "c") == made
    said = await conversations.save("t", "c", [asking("hi"), asking("hi")], seconds=60, built_on=made.version)
    assert await conversations.load("t", "c") == said
    assert (said.metadata, said.created) == (made.metadata, made.created)
    with pytest.raises(ConversationChanged):
        await conversations.save("t", "c", [], seconds=60, built_on=made.version)
    assert await conversations.annotate("t", "c", {"c": "d"}, seconds=60) == made.created
    changed = await conversations.load("t", "c")
    assert changed is not None
    assert (changed.messages, changed.metadata, changed.created) == (
        [asking("hi"), asking("hi")],
        {"c": "d"},
        made.created,
    )
    assert 0 < await redis.pttl(keys.conversation("t", "c")) <= 60_000
    assert await conversations.delete("t", "c")
    assert not await conversations.delete("t", "c")
    assert await conversations.annotate("t", "c", {}, seconds=60) is None
    assert await conversations.load("t", "c") is None


async def test_a_change_of_the_past_does_not_bring_a_deleted_conversation_back(conversations: Conversations) -> None:
    await conversations.save("t", "c", [asking("hi")], seconds=60)
    made = await conversations.load("t", "c")
    assert made is not None
    await conversations.delete("t", "c")
    with pytest.raises(ConversationChanged):
        await conversations.save("t", "c", [asking("hi")], seconds=60, built_on=made.version)
    assert await conversations.load("t", "c") is None


async def test_under_an_open_turn_a_client_changes_nothing_but_the_metadata(
    ledger: TaskLedger, conversations: Conversations
) -> None:
    version = await answered(ledger, asking("hi"), saying("hello"))
    task_id = await begin(ledger, version)
    with pytest.raises(ConversationBusy):
        await conversations.save("t", "c", [], seconds=60, built_on=version)
    with pytest.raises(ConversationBusy):
        await conversations.delete("t", "c")
    assert await conversations.annotate("t", "c", {"a": "b"}, seconds=0.001)
    await claim(ledger, task_id)
    assert await save(ledger, task_id, 1, asking("hi"))
    stored = await conversations.load("t", "c")
    assert stored is not None
    assert (stored.messages, stored.metadata) == ([asking("hi")], {"a": "b"})


async def test_a_task_says_how_long_its_conversation_is_kept(ledger: TaskLedger, redis: Redis, keys: Keys) -> None:
    task_id = await begin(ledger, conversation_seconds=5)
    await claim(ledger, task_id)
    assert await save(ledger, task_id, 1, asking("hi"), seconds=1000)
    assert 0 < await redis.pttl(keys.conversation("t", "c")) <= 5000


async def test_an_ended_task_is_deleted_with_its_conversation_by_its_own_tenant(
    ledger: TaskLedger, conversations: Conversations
) -> None:
    task_id = await begin(ledger, note="{}")
    assert await ledger.delete(task_id, "t", conversation_id="c") == "open"
    await claim(ledger, task_id)
    assert await save(ledger, task_id, 1, asking("hi"))
    assert await ledger.delete(task_id, "another", conversation_id="c") == "missing"
    assert await ledger.delete(task_id, "t", conversation_id="c") == "done"
    assert await ledger.get(task_id) is None
    assert await conversations.load("t", "c") is None
    assert await ledger.delete(task_id, "t", conversation_id="c") == "missing"


async def test_a_task_that_no_door_has_noted_is_not_deleted(ledger: TaskLedger) -> None:
    task_id = await answered(ledger, asking("hi"))
    assert await ledger.delete(task_id, "t", conversation_id="x") == "missing"
    assert await ledger.get(task_id) is not None
