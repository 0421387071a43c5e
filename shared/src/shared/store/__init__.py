"""Everything in Redis: keys, the ledger of tasks, their event streams, the registry of workers."""
