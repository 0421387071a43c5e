"""Everything in Redis: keys, the ledger and the lists of tasks, their event streams, conversations, workers."""
