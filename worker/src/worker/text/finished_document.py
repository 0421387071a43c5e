"""The last word on a document that a schema demands: its grammar may allow more than the schema does."""

from shared.wire.chat import JsonSchemaFormat, ResponseFormat
from shared.wire.json_text import parse_json
from shared.wire.schemas import FinalTextEvent, ToolCallsEvent
from worker.text.allowance import CannotBeJudged
from worker.text.document_check import DocumentCheck


def unmet(wanted: ResponseFormat | None, outcome: FinalTextEvent | ToolCallsEvent) -> str:
    """Why the answer is not the document that was demanded; empty where it is, or where none was.

    An answer that was cut short says so by its finish reason, and calls are judged where they are read. May take tens
    of milliseconds: not for an event loop.
    """
    if (
        not isinstance(wanted, JsonSchemaFormat)
        or isinstance(outcome, ToolCallsEvent)
        or outcome.finish_reason != "stop"
    ):
        return ""
    try:
        accepted = DocumentCheck(wanted.json_schema.schema_).judge(parse_json(outcome.text.encode()))
    except (CannotBeJudged, ValueError) as error:
        return f"The answer cannot be judged by the schema of responseFormat: {error}"
    return "" if accepted else "The answer is not a document that the schema of responseFormat accepts."
