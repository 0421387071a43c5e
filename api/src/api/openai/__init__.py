"""The door `/v1`: chat completions, completions and models as OpenAI's clients know them; a translation, no more."""
