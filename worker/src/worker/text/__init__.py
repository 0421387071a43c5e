"""Conversations to tokens and grammars, tokens to text and tool calls. No torch."""
