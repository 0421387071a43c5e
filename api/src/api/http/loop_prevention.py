"""The field `loop_prevention` of other APIs' requests: an extension, spelled as those APIs spell their fields."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.wire.chat import MAX_TOOLS, ToolName
from shared.wire.schemas import LoopPrevention


class PollingTools(BaseModel):
    """Tools that are called to wait for something."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    polling_tools: Annotated[list[ToolName], Field(max_length=MAX_TOOLS, fail_fast=True)]


WantedLoopPrevention = Literal["off"] | PollingTools


def loop_prevention_of(wanted: WantedLoopPrevention | None) -> Literal["off"] | LoopPrevention | None:
    """The same in Headrace's form."""
    return LoopPrevention(polling_tools=wanted.polling_tools) if isinstance(wanted, PollingTools) else wanted
