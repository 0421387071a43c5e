"""What a request may say is what the server takes."""

from pydantic.alias_generators import to_camel

from headrace.calls import Options
from shared.wire.schemas import CreateMessageParams


def test_every_parameter_of_the_server_can_be_given() -> None:
    ours = {to_camel(name) for name in Options.__annotations__}
    theirs = {field.alias for field in CreateMessageParams.model_fields.values()}
    # A prompt that is no conversation has a client of its own: OpenAI's, for `/v1/completions`.
    assert ours | {"messages", "message", "history", "prompt", "echo"} == theirs
