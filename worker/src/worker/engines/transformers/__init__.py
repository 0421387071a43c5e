"""The engine on transformers' continuous batching. The only room that imports torch."""
