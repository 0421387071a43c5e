"""LitServe over the fake engine, streaming, with continuous batching off: one generator per request."""

import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import litserve as ls
from fake_engine import generate


class Fake(ls.LitAPI):
    def setup(self, device: str) -> None:
        """There is no model."""

    async def decode_request(self, request: dict[str, Any]) -> int:
        return int(request["tokens"])

    async def predict(self, tokens: int) -> AsyncIterator[str]:
        async for token in generate(tokens):
            yield token

    async def encode_response(self, output: AsyncIterator[str]):  # type: ignore[no-untyped-def]  # LitServe reads it
        async for token in output:
            yield json.dumps({"token": token}) + "\n"


if __name__ == "__main__":
    server = ls.LitServer(Fake(stream=True, enable_async=True), accelerator="cpu", timeout=False)
    server.run(port=int(sys.argv[1]), host="127.0.0.1", generate_client_file=False, log_level="warning")
