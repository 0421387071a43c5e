"""What text needs of a model's tokenizer beside text <-> tokens: the templates that the model brings."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from tokenizers import AddedToken, Tokenizer


class ChatTokenizer(Protocol):
    """transformers' fast tokenizers, as far as they are used here: only the room of an engine imports that library."""

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """Text <-> tokens."""

    @property
    def added_tokens_decoder(self) -> Mapping[int, AddedToken]:
        """Tokens beside the vocabulary proper, by id."""

    @property
    def chat_template(self) -> Any:
        """The Jinja template; None for a model without one."""

    @property
    def get_chat_template(self) -> Callable[..., str]:
        """The template for a conversation with these tools; raises ValueError where there is none."""

    @property
    def special_tokens_map(self) -> Mapping[str, Any]:
        """Variables of the template: `bos_token`, `eos_token`."""

    @property
    def encode(self) -> Callable[..., list[int]]:
        """Text -> token ids."""

    @property
    def get_response_parser(self) -> Callable[..., Any]:
        """A parser of answers, for a model that brings a response template."""
