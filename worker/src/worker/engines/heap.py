"""The C heap of an engine's process. Of its own accord glibc gives back to the kernel what a step frees, and the next
step takes it again, page by page: 500 to 2,500 page faults a step with 32 requests on two cores, differently many in
each process. A step was 3 % longer for it, and up to a tenth beside others that want a core now and then.

Other C libraries have no such settings: there nothing is done.
"""

import ctypes
from typing import Final

FREE_BYTES: Final = 256 << 20
"""What stays in the heap though nothing uses it: more than the largest step of a CPU engine needs for a moment."""

# The names of malloc.h; their numbers are part of glibc's ABI.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGEST_IN_HEAP = 32 << 20
"""The largest threshold that glibc takes: larger blocks are always mapped, and given back, one by one."""


def share_one_heap() -> None:
    """Gives all threads the main heap. To be called before the first of them starts.

    Those of their own are pieces of 64 MiB, which go back to the kernel whole, whatever the thresholds say.
    """
    _mallopt(_M_ARENA_MAX, 1)


def keep_freed_memory() -> None:
    """From now on steps find what earlier ones freed. What loading freed goes back first."""
    if hasattr(_LIBC, "malloc_trim"):
        _LIBC.malloc_trim(0)
    _mallopt(_M_MMAP_THRESHOLD, _LARGEST_IN_HEAP)
    _mallopt(_M_TRIM_THRESHOLD, FREE_BYTES)


_LIBC = ctypes.CDLL(None)


def _mallopt(name: int, value: int) -> None:
    if hasattr(_LIBC, "mallopt"):
        _LIBC.mallopt(name, value)
