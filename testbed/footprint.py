"""What a process holds of the machine, and the bounds within which it may hold more after a day's work."""

from dataclasses import dataclass

import psutil

FILES = 5
"""More open files than after the warm-up: a few connections to Redis, whose pools fill on demand. A leak of one per
task is above it from the sixth task on, one per outage of Redis within a soak of some ten minutes."""
THREADS = 8
"""More threads than after the warm-up: the pools (Celery's, the publisher's, asyncio's) fill on demand."""
BYTES = 4 * 2**20
"""More resident memory than after the warm-up, whatever was done: fragments, caches, the first of everything rare. What
was seen in ten minutes, tasks included, is 3 MB."""
BYTES_PER_TASK = 4 * 2**10
"""And for each task. A leak of 20 KB per task is above both from 256 tasks on, which two minutes give to each."""


@dataclass(frozen=True)
class Footprint:
    """One process at one moment."""

    pid: int
    files: int
    threads: int
    rss: int
    """Resident bytes."""

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        process = psutil.Process(pid)
        return cls(pid, process.num_fds(), process.num_threads(), process.memory_info().rss)

    def since(self, before: "Footprint") -> dict[str, int]:
        """The growth, for a report."""
        assert self.pid == before.pid, "another process"
        return {
            "files": self.files - before.files,
            "threads": self.threads - before.threads,
            "kilobytes": (self.rss - before.rss) // 1024,
        }

    def within(self, before: "Footprint", tasks: int, pooled: int = 0) -> bool:
        """True when a process that had `tasks` tasks in between has not grown beyond the bounds.

        `pooled`: connections that a pool of it holds when it is full, and that it may not have opened before.
        """
        return (
            self.files <= before.files + FILES + pooled
            and self.threads <= before.threads + THREADS
            and self.rss <= before.rss + BYTES + BYTES_PER_TASK * tasks
        )
