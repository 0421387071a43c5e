"""What a generator of requests cannot know: the name of a model that there is. With another it would see a 404 only."""

from typing import Any

import schemathesis

from testbed.fake_worker import DEFAULT_MODEL


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """The body, asking for that model where it asks for any."""
    return body | {"model": DEFAULT_MODEL} if isinstance(body, dict) and isinstance(body.get("model"), str) else body
