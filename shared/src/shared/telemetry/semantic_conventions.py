"""The names in traces and metrics that OpenTelemetry's semantic conventions give, and Headrace's own beside them.

Copied, not imported: the GenAI conventions are in development, and the package that holds the constants marks them as
moved. What is renamed upstream is renamed here. Taken from the GenAI conventions of 2026-05 and messaging 1.40.
"""

from typing import Final

OPERATION: Final = "gen_ai.operation.name"
PROVIDER: Final = "gen_ai.provider.name"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
REQUEST_TOP_P: Final = "gen_ai.request.top_p"
REQUEST_TOP_K: Final = "gen_ai.request.top_k"
REQUEST_SEED: Final = "gen_ai.request.seed"
REQUEST_STREAM: Final = "gen_ai.request.stream"
OUTPUT_TYPE: Final = "gen_ai.output.type"
CONVERSATION: Final = "gen_ai.conversation.id"
FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
FIRST_CHUNK_SECONDS: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_INPUT_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"

CHAT: Final = "chat"
"""Value of OPERATION."""
HEADRACE: Final = "headrace"
"""Value of PROVIDER."""

SERVER_REQUEST_SECONDS: Final = "gen_ai.server.request.duration"
SERVER_FIRST_TOKEN_SECONDS: Final = "gen_ai.server.time_to_first_token"
SERVER_OUTPUT_TOKEN_SECONDS: Final = "gen_ai.server.time_per_output_token"

MESSAGING_SYSTEM: Final = "messaging.system"
MESSAGING_OPERATION: Final = "messaging.operation.name"
MESSAGING_OPERATION_TYPE: Final = "messaging.operation.type"
MESSAGING_DESTINATION: Final = "messaging.destination.name"
MESSAGING_MESSAGE_ID: Final = "messaging.message.id"
ERROR_TYPE: Final = "error.type"

TASK_ID: Final = "headrace.task.id"
TENANT: Final = "headrace.tenant"
ATTEMPT: Final = "headrace.attempt"
"""1 for the first worker that took the task."""
OUTCOME: Final = "headrace.attempt.outcome"
"""How an attempt ended: the cause of an end in `worker.tasks.outcomes`; `lost` where the worker died."""
EARLIER_TOKENS: Final = "headrace.earlier_tokens"
"""Tokens of the answer that earlier attempts streamed and this one goes on behind."""
QUEUE_SECONDS: Final = "headrace.queue_seconds"
"""From acceptance to the claim of this attempt."""

ADMITTED: Final = "admitted"
"""Event: the engine took the request into its running batch."""
FIRST_TOKEN: Final = "first_token"
HANDOVER: Final = "handover"
"""Event: the worker stops; another one goes on."""
REDRAW: Final = "redraw"
"""Event: the answer is not what was demanded, and is drawn anew."""
REDRAW_REASON: Final = "headrace.redraw.reason"
CANCELLED: Final = "cancelled"
