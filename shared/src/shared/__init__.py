"""What the API and the workers both know: wire types, prompts, the task ledger, the event stream, the queue."""
