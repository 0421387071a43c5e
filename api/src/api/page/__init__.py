"""The chat page at `/`: its files, and the Markdown that it shows. It speaks `/rpc` and `/stream` like any client."""
