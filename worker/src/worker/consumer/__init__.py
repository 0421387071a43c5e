"""Celery's side of a worker: what takes messages from the broker. The only room that imports celery or kombu."""
