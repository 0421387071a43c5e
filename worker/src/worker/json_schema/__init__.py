"""JSON schemas of clients: what a grammar can enforce of one, and the judgement of a finished document. No model."""
