"""The door `/v1/messages` as Anthropic's clients know it; a translation, no more."""
