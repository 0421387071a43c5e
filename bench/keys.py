"""API keys of servers that are measured with several tenants."""

import hashlib
import json
from collections.abc import Mapping


def key_file(tenants: Mapping[str, str]) -> str:
    """The key file in which each key is its tenant's."""
    return json.dumps(
        {
            "keys": [
                {"id": key, "tenant": tenant, "sha256": hashlib.sha256(key.encode()).hexdigest()}
                for key, tenant in tenants.items()
            ]
        }
    )
