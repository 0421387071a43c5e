"""What the API asks a model's workers about tokens, and what they reply: the API has no tokenizer."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from shared.wire.schemas import InferenceRequest, WireType


class TextToIds(WireType):
    """The tokens of a text."""

    kind: Literal["text"] = "text"
    text: str
    add_special_tokens: bool = True
    """Whether the tokens that the model expects around any text (such as a beginning-of-text) are added."""


class PromptToIds(WireType):
    """The tokens of the prompt that a request would become."""

    kind: Literal["prompt"] = "prompt"
    request: InferenceRequest


class IdsToText(WireType):
    """The text of tokens, special ones included."""

    kind: Literal["ids"] = "ids"
    ids: list[Annotated[int, Field(ge=0)]]


Question = Annotated[TextToIds | PromptToIds | IdsToText, Field(discriminator="kind")]
QUESTION: TypeAdapter[Question] = TypeAdapter(Question)


class Tokenized(WireType):
    """The reply to each question; `error` alone where there is none."""

    ids: tuple[int, ...] = ()
    text: str = ""
    error: str = ""
    """Why the question has no answer: what the client sent cannot be rendered, or is no token of this model."""
