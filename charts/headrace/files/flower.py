"""Flower's two configurations in one module: Celery's (which broker) and its own (who may look)."""

import json
import os
from pathlib import Path

broker_url = os.environ["HEADRACE_REDIS_URL"]
broker_transport_options = {"global_keyprefix": os.environ.get("HEADRACE_KEY_PREFIX", "headrace:")}
if broker_url.startswith("sentinel"):
    broker_transport_options["master_name"] = os.environ.get("HEADRACE_REDIS_SENTINEL_SERVICE", "mymaster")
accept_content = ["json"]

# The API's own keys, of those tenants that operate the installation: Flower knows no tenants and shows every task.
_operators = os.environ["FLOWER_TENANTS"].split(",")
_keys = json.loads(Path("/etc/headrace/auth/api-keys.json").read_text())
basic_auth = [f"{tenant}:{key}" for key, tenant in _keys.items() if tenant in _operators]
if not basic_auth:
    raise SystemExit(f"headrace: no API key belongs to {' or '.join(_operators)}; nobody could open Flower")
