"""The client's types are those of the server."""

import pytest
from pydantic import BaseModel

import shared.wire.schemas as wire
from headrace import events
from headrace.events import EVENT_TYPES
from shared.wire.task_view import Cancellation, TaskView


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (events.Status, wire.StatusEvent),
        (events.Token, wire.TokenEvent),
        (events.TokenLogprob, wire.TokenLogprob),
        (events.LikelyToken, wire.LikelyToken),
        (events.FinalText, wire.FinalTextEvent),
        (events.ToolCalls, wire.ToolCallsEvent),
        (events.Failure, wire.ErrorEvent),
        (events.End, wire.EndEvent),
        (events.Guard, wire.Guard),
        (events.Usage, wire.Usage),
        (events.Timings, wire.Timings),
        (events.ToolCall, wire.ToolCall),
        (events.TaskView, TaskView),
        (events.Cancellation, Cancellation),
        (events.Model, wire.ModelStatus),
        (events.Abilities, wire.ModelAbilities),
        (events.SamplingDefaults, wire.SamplingDefaults),
    ],
)
def test_fields_have_the_server_s_names(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    assert {field.alias for field in ours.model_fields.values()} == {
        field.alias for field in theirs.model_fields.values()
    }


def test_every_event_of_the_server_is_known() -> None:
    theirs = {event.model_fields["type"].default for event in wire.Event.__origin__.__args__}  # type: ignore[attr-defined]  # of Annotated
    assert theirs == EVENT_TYPES


USAGE = wire.Usage(prompt_tokens=1, completion_tokens=2)
TIMINGS = wire.Timings(queued=0, first_token=None, total=1)


@pytest.mark.parametrize(
    ("sent", "read"),
    [
        (wire.FinalText(text="a", finish_reason="stop", usage=USAGE, timings=TIMINGS), events.FinalText),
        (
            wire.ToolCalls(
                text="", tool_calls=[wire.ToolCall(id="c", name="f", arguments={})], usage=USAGE, timings=TIMINGS
            ),
            events.ToolCalls,
        ),
    ],
)
def test_a_task_s_result_is_read_as_the_event_that_ended_its_stream(
    sent: wire.FinalText | wire.ToolCalls, read: type[BaseModel]
) -> None:
    view = TaskView(task_id="t1", state="SUCCESS", text="a", index=2, result=sent)
    result = events.TaskView.model_validate(view.model_dump(mode="json", exclude_none=True)).result
    assert isinstance(result, read)
    assert (result.task_id, result.usage.completion_tokens) == ("t1", 2)


def test_a_task_s_error_is_read_as_the_event_that_ended_its_stream() -> None:
    error = wire.Failure(code="poisoned", message="Oh.", retryable=False)
    view = TaskView(task_id="t1", state="FAILURE", text="", index=0, error=error)
    failure = events.TaskView.model_validate(view.model_dump(mode="json", exclude_none=True)).error
    assert failure == events.Failure(task_id="t1", code="poisoned", message="Oh.", retryable=False)
