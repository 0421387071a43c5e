"""Which exceptions may be answered where the code of others works on the data of others."""

import asyncio

LEAVING = (KeyboardInterrupt, SystemExit, GeneratorExit, asyncio.CancelledError)
"""They end a process or a coroutine on purpose. Everything else is one task's trouble, also the panics of Rust code
(tokenizers, jsonschema-rs, llguidance), which pyo3 raises as a BaseException: `except LEAVING: raise` stands before
`except BaseException`."""
