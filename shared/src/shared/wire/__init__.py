"""The types that cross a border: events, requests, OpenAI's conversations."""
