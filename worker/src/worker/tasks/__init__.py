"""The life of a task on this worker, from its claim in the ledger to its ending. Knows neither Celery nor torch."""
