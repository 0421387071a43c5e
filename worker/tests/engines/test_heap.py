"""The settings of the C heap, in a process of its own: they cannot be taken back."""

import subprocess
import sys

STEPS = """
import ctypes, resource, threading

from worker.engines.heap import keep_freed_memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]


def step():
    begin = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    blocks = [libc.malloc(20 << 20) for _ in range(6)]  # more than a piece of a thread's heap
    for block in blocks:
        libc.memset(block, 1, 20 << 20)
    for block in blocks:
        libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - begin)


def generate():
    for _ in range(4):
        step()


faults = []
keep_freed_memory()
thread = threading.Thread(target=generate)
thread.start()
thread.join()
print(*faults)
"""
PAGES = 6 * (20 << 20) // 4096


def test_a_step_takes_what_an_earlier_one_freed() -> None:
    ran = subprocess.run([sys.executable, "-c", STEPS], capture_output=True, text=True, check=True)
    first, *later = (int(number) for number in ran.stdout.split())
    assert first > 0
    assert max(later) < PAGES // 100
