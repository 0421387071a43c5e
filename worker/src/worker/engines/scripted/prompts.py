"""Text <-> tokens of the scripted engine: bytes and a few words; needs neither transformers nor a template."""

from tokenizers import Tokenizer, decoders, models

from shared.wire.chat import AssistantMessage
from shared.wire.schemas import InferenceRequest, ModelAbilities
from worker.engine_protocol import Grammar
from worker.engines.scripted.script import EOS, FIRST_BYTE, FIRST_WORD, LAST_USER, WORDS
from worker.text.answer_grammars import is_enforced
from worker.text.answer_stream import AnswerStream
from worker.text.tool_calls import offered_tools


class ScriptedPrompts:
    """The conversation as bytes, one message per line."""

    abilities = ModelAbilities(tools="prompt")
    stop: tuple[str, ...] = ()

    def __init__(self) -> None:
        vocabulary = {"</s>": EOS}
        vocabulary |= {f"<0x{byte:02X}>": FIRST_BYTE + byte for byte in range(256)}
        vocabulary |= {word: FIRST_WORD + at for at, word in enumerate(WORDS)}
        self.tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="</s>"))
        self.tokenizer.add_special_tokens(["</s>"])
        self.tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])

    def prompt_ids(self, request: InferenceRequest) -> tuple[int, ...]:
        """One token per byte."""
        lines = []
        last_user = max((at for at, message in enumerate(request.messages) if message.role == "user"), default=-1)
        rounds = sum(message.role == "assistant" for message in request.messages[last_user + 1 :])
        for at, message in enumerate(request.messages):
            content = (message.content or "") if isinstance(message, AssistantMessage) else message.content
            lines.append(f"{message.role}: {LAST_USER * (1 + rounds) if at == last_user else ''}{content}")
        # What follows the last user message must not be read as a part of it.
        lines[last_user:] = lines[last_user + 1 :] + lines[last_user : last_user + 1]
        return self.text_ids("\n".join(lines), add_special_tokens=False)

    def text_ids(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        """One token per byte."""
        return tuple(FIRST_BYTE + byte for byte in text.encode())

    def grammar(self, request: InferenceRequest) -> Grammar | None:
        """None: what the script says is what the test wants."""
        return None

    def answer_reader(self, task_id: str, request: InferenceRequest) -> AnswerStream:
        return AnswerStream(offered_tools(request), task_id, leading_only=is_enforced(request))
