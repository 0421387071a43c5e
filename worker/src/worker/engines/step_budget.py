"""How many tokens a step computes, for every engine that computes prompts beside answers."""

SCORED_AT_ONCE = 128
"""Tokens of scored prompts in one step: for each the scores of the whole vocabulary are in memory for a moment, 80 MB
for one of 150,000 entries."""


def step_budget(decoding: int, waiting: int, *, prefill_chunk: int, max_batch_tokens: int) -> int:
    """Most tokens of a step that `decoding` requests wait for their next token in, and `waiting` for their first.

    With one cap for all steps a long prompt makes every answer stutter, or is slow where it is alone; and requests that
    come in a burst, one after the other, are taken in a few at a time, in steps that are all paid for by those before
    them. So a step has a chunk of prompts for as many of those who wait as there are answers.
    """
    if not decoding:
        return max_batch_tokens
    return min(max_batch_tokens, decoding + prefill_chunk * max(1, waiting // decoding))
