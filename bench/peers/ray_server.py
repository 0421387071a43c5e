"""Ray Serve over the fake engine: a FastAPI ingress that streams."""

import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import ray
from fake_engine import generate
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from ray import serve

app = FastAPI()


@serve.deployment(max_ongoing_requests=5000, ray_actor_options={"num_cpus": 0.5})
@serve.ingress(app)
class Fake:
    @app.get("/ready")
    def ready(self) -> str:
        return "ready"

    @app.post("/generate")
    async def generate(self, body: dict[str, Any]) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            index = 0
            async for token in generate(body["tokens"]):
                index += 1
                yield f'id: 1-{index}\nevent: token\ndata: {{"text": "{token}", "index": {index}}}\n\n'

        return StreamingResponse(events(), media_type="text/event-stream")


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Fake.bind(), route_prefix="/")
    while True:
        time.sleep(3600)
