"""The GPU worker: takes tasks from a model's queue and drives the engine that batches them."""
