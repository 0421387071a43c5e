"""The oldest turns go first, and whole."""

from shared.conversation.truncation import cut_points, without_oldest
from shared.wire.chat import (
    AssistantMessage,
    ChatMessage,
    FunctionCall,
    MessageToolCall,
    SystemMessage,
    ToolMessage,
    UserMessage,
)

CALL = MessageToolCall(id="c", function=FunctionCall(name="f", arguments="{}"))
CONVERSATION: list[ChatMessage] = [
    SystemMessage(role="system", content="s"),
    UserMessage(role="user", content="one"),
    AssistantMessage(role="assistant", content=None, tool_calls=[CALL]),
    ToolMessage(role="tool", content="1", tool_call_id="c"),
    AssistantMessage(role="assistant", content="uno"),
    UserMessage(role="user", content="two"),
    SystemMessage(role="developer", content="d"),
    AssistantMessage(role="assistant", content="due"),
    UserMessage(role="user", content="three"),
]


def test_turns_go_whole_and_the_last_one_stays() -> None:
    assert cut_points(CONVERSATION) == [0, 4, 6]
    contents = [[message.content for message in without_oldest(CONVERSATION, count)] for count in (0, 4, 6)]
    assert contents[0] == [message.content for message in CONVERSATION]
    assert contents[1:] == [["s", "two", "d", "due", "three"], ["s", "d", "three"]]


def test_what_stands_before_the_first_user_message_is_a_turn_too() -> None:
    said = CONVERSATION[4:6]
    assert cut_points(said) == [0, 1]
    assert without_oldest(said, 1) == CONVERSATION[5:6]
    assert cut_points(CONVERSATION[4:5]) == [0]
