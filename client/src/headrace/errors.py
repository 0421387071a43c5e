"""Everything that can go wrong, as exceptions."""


class HeadraceError(Exception):
    """Base of every error of this package."""

    def __init__(
        self,
        message: str,
        *,
        code: int | str | None = None,
        retryable: bool = False,
        retry_after: float | None = None,
        task_id: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        """JSON-RPC code of a refused request, name of a failed task's error, HTTP status of anything else."""
        self.retryable = retryable
        """True: the same request may succeed later."""
        self.retry_after = retry_after
        """Seconds to wait first, where the server said so."""
        self.task_id = task_id


class Unreachable(HeadraceError):
    """The server cannot be reached, or drops every connection."""


class NotHeadrace(HeadraceError):
    """What answered does not speak Headrace's protocol."""


class RequestRefused(HeadraceError):
    """The server refused the request; `code` is its JSON-RPC error code."""


class TaskNotFound(HeadraceError):
    """The server knows no such task."""


class TaskExpired(HeadraceError):
    """The task ended so long ago that its events are gone."""


class ConversationNotFound(HeadraceError):
    """The server keeps no such conversation (any more)."""


class TaskFailed(HeadraceError):
    """The task ended in failure; `code` says in which."""


class TaskCancelled(HeadraceError):
    """The task was cancelled before it had an answer."""


class DeadlineExceeded(HeadraceError):
    """The time that the caller gave is over. The task itself goes on: it can still be streamed."""


class TooManyRounds(HeadraceError):
    """The model kept calling tools for as many rounds as the caller allows."""
