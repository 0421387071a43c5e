"""The last word on an answer that a grammar holds to a form: the grammar may allow more than was demanded."""

from shared.wire.json_text import parse_json
from shared.wire.schemas import FinalTextEvent, InferenceRequest, ToolCallsEvent
from worker.json_schema.allowance import CannotBeJudged
from worker.json_schema.document_check import DocumentCheck
from worker.text.answer_grammars import demanded_document, is_enforced


def unmet(request: InferenceRequest, outcome: FinalTextEvent | ToolCallsEvent) -> str:
    """Why the answer is not what the request demands; empty where it is, or where any answer will do.

    An answer that was cut short says so by its finish reason. Calls have been judged where they were read: one that its
    tool's schema refuses has become text, and beside an enforced call there is no other. May take tens of milliseconds:
    not for an event loop.
    """
    if not is_enforced(request) or outcome.finish_reason not in ("stop", "tool_calls"):
        return ""
    schema = demanded_document(request)
    if isinstance(outcome, ToolCallsEvent) or schema is None:
        whole = isinstance(outcome, ToolCallsEvent) and not outcome.text.strip()
        return "" if whole else "The model wrote a call that the schema of its tool does not accept."
    try:
        accepted = DocumentCheck(schema).judge(parse_json(outcome.text.encode()))
    except (CannotBeJudged, ValueError) as error:
        return f"The answer cannot be judged by the schema of responseFormat: {error}"
    return "" if accepted else "The answer is not a document that the schema of responseFormat accepts."
