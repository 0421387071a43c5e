"""The C heap of an engine's process. Of its own accord glibc gives back to the kernel what a step frees, and the next
step takes it again, page by page: 500 to 4,200 page faults a step with 32 requests on two cores, differently many in
each process, and up to a tenth of a step beside others that want a core now and then
(docs/decisions/0003-engine.md).

Other C libraries have no such settings: there nothing is done.
"""

import ctypes

# The names of malloc.h; their numbers are part of glibc's ABI.
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_LARGEST_IN_HEAP = 32 << 20
"""The largest threshold that glibc takes, in bytes: larger blocks are always mapped, and given back, one by one."""
_RESERVE = 64 << 20
"""In bytes, what may stay free at the end of a heap. A thread's is made of pieces of this size: none goes back."""


def keep_freed_memory() -> None:
    """From now on steps find what earlier ones freed. What loading freed goes back first.

    One heap for all threads would do it, too, but with that a step of one request took 1.5 % longer.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt") or not hasattr(libc, "malloc_trim"):
        return
    libc.malloc_trim(0)
    libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
    libc.mallopt(_M_TOP_PAD, _RESERVE)
