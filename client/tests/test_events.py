"""The client's types are those of the server."""

import pytest
from pydantic import BaseModel

import shared.wire.schemas as wire
from headrace import events
from headrace.events import EVENT_TYPES


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (events.Status, wire.StatusEvent),
        (events.Token, wire.TokenEvent),
        (events.FinalText, wire.FinalTextEvent),
        (events.ToolCalls, wire.ToolCallsEvent),
        (events.Failure, wire.ErrorEvent),
        (events.End, wire.EndEvent),
        (events.Guard, wire.Guard),
        (events.Usage, wire.Usage),
        (events.Timings, wire.Timings),
        (events.ToolCall, wire.ToolCall),
        (events.Model, wire.ModelStatus),
        (events.Abilities, wire.ModelAbilities),
    ],
)
def test_fields_have_the_server_s_names(ours: type[BaseModel], theirs: type[BaseModel]) -> None:
    assert {field.alias for field in ours.model_fields.values()} == {
        field.alias for field in theirs.model_fields.values()
    }


def test_every_event_of_the_server_is_known() -> None:
    theirs = {event.model_fields["type"].default for event in wire.Event.__origin__.__args__}  # type: ignore[attr-defined]  # of Annotated
    assert theirs == EVENT_TYPES
