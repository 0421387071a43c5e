"""What a conversation loses that is longer than the context: its oldest turns.

A turn is a user's message and all that follows it up to the next one, so no call loses its result. System messages and
the last turn stay.
"""

from collections.abc import Sequence

from shared.wire.chat import ChatMessage, SystemMessage, UserMessage


def cut_points(messages: Sequence[ChatMessage]) -> list[int]:
    """How many of the oldest messages that are no system message may be dropped; from 0 on, ascending."""
    said = [message for message in messages if not isinstance(message, SystemMessage)]
    return [0, *(at for at, message in enumerate(said) if at and isinstance(message, UserMessage))]


def without_oldest(messages: Sequence[ChatMessage], count: int) -> list[ChatMessage]:
    """The conversation without so many of its oldest messages that are no system message."""
    kept: list[ChatMessage] = []
    for message in messages:
        if isinstance(message, SystemMessage) or count == 0:
            kept.append(message)
        else:
            count -= 1
    return kept
