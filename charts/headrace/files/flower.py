"""Flower's two configurations in one module: Celery's (which broker) and its own (who may look)."""

import json
import os
from pathlib import Path

broker_url = os.environ["HEADRACE_REDIS_URL"]
broker_transport_options = {"global_keyprefix": os.environ.get("HEADRACE_KEY_PREFIX", "headrace:")}
if broker_url.startswith("sentinel"):
    broker_transport_options["master_name"] = os.environ.get("HEADRACE_REDIS_SENTINEL_SERVICE", "mymaster")
accept_content = ["json"]

# Flower knows no tenants and shows every task: only who operates the installation may look.
basic_auth = [pair.strip() for pair in os.environ.get("FLOWER_BASIC_AUTH_OF_SECRET", "").split(",") if pair.strip()]
if not basic_auth:  # deprecated: API keys in plain text, of the tenants that operate the installation
    _operators = os.environ["FLOWER_TENANTS"].split(",")
    _keys = json.loads(Path("/etc/headrace/auth/api-keys.json").read_text())
    basic_auth = [f"{tenant}:{key}" for key, tenant in _keys.items() if tenant in _operators]
    if not basic_auth:
        raise SystemExit(f"headrace: no API key belongs to {' or '.join(_operators)}; nobody could open Flower")
