"""Who is calling, and what they may: keys, their file, signed tokens, the log of what was done. Knows no HTTP."""
