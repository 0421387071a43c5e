"""All streams that this process follows, over one connection to Redis. Knows no HTTP."""
