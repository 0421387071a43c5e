"""Headrace's HTTP API."""
