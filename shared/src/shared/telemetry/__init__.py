"""Logs, metrics and traces, as API and workers both write them."""
