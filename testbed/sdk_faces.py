"""The Python clients of OpenAI and Anthropic behind one face, so that one test asks the same of both."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

import anthropic
import httpx
import httpx2
import openai
from anthropic.types import Message, MessageParam
from openai.types.chat import ChatCompletionMessageParam

RAISES = (openai.APIError, anthropic.APIError, httpx.TransportError, httpx2.TransportError)
"""Of a request that fails. Where a connection breaks in mid-stream, they raise what their HTTP library raises."""


@dataclass(frozen=True)
class SdkFace:
    """One way to ask."""

    door: Literal["chat", "messages"]
    stream: bool
    max_retries: int = 0
    try_seconds: float = 60
    """The client's time-out, of each try."""

    def __str__(self) -> str:
        return f"{self.door}-{'streamed' if self.stream else 'whole'}"

    def pieces(self, url: str, model: str, text: str) -> AsyncIterator[str]:
        """The answer's texts as they come; a whole answer is one. Raises RAISES."""
        return self._chat(url, model, text) if self.door == "chat" else self._message(url, model, text)

    async def answer(self, url: str, model: str, text: str) -> str:
        """The whole text. Raises RAISES."""
        return "".join([piece async for piece in self.pieces(url, model, text)])

    async def _chat(self, url: str, model: str, text: str) -> AsyncIterator[str]:
        messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": text}]
        async with openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key="none", max_retries=self.max_retries, timeout=self.try_seconds
        ) as client:
            finish = None
            if self.stream:
                async for chunk in await client.chat.completions.create(model=model, messages=messages, stream=True):
                    finish = chunk.choices[0].finish_reason
                    yield chunk.choices[0].delta.content or ""
            else:
                answer = await client.chat.completions.create(model=model, messages=messages)
                finish = answer.choices[0].finish_reason
                yield answer.choices[0].message.content or ""
        assert finish == "stop", "half an answer looked whole"

    async def _message(self, url: str, model: str, text: str) -> AsyncIterator[str]:
        messages: list[MessageParam] = [{"role": "user", "content": text}]
        async with anthropic.AsyncAnthropic(
            base_url=url, api_key="none", max_retries=self.max_retries, timeout=self.try_seconds
        ) as client:
            if self.stream:
                async with client.messages.stream(model=model, max_tokens=4000, messages=messages) as stream:
                    async for piece in stream.text_stream:
                        yield piece
                    answer: Message = await stream.get_final_message()
            else:
                answer = await client.messages.create(model=model, max_tokens=4000, messages=messages)
                yield "".join(block.text for block in answer.content if block.type == "text")
        assert answer.stop_reason == "end_turn", "half an answer looked whole"


FACES = [SdkFace(door, stream) for door in ("chat", "messages") for stream in (False, True)]
