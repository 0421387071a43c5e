"""What an exception is to a client."""

import logging

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from api.errors import ApiError, InternalError, Refusing, StoreFull, TaskNotFound, Unavailable, as_api_error


def test_what_is_meant_for_the_client_stays_as_it_is() -> None:
    error = TaskNotFound()
    assert as_api_error(error) is error
    assert error.message == "There is no task of this id; it may have expired."


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RedisConnectionError("gone"), Unavailable),
        (RedisTimeoutError("no answer within 2 s"), Unavailable),
        (ReadOnlyError("You can't write against a read only replica.", status_code="READONLY"), Refusing),
        (ResponseError("LOADING Redis is loading the dataset in memory"), Unavailable),
        (ResponseError("MASTERDOWN Link with MASTER is down"), Refusing),
        (OutOfMemoryError("command not allowed", status_code="OOM"), StoreFull),
        (ResponseError("OOM command not allowed when used memory > 'maxmemory'."), StoreFull),
    ],
)
def test_a_store_that_cannot_now_is_told_as_such_with_the_time_to_come_back(
    error: Exception, kind: type[ApiError], caplog: pytest.LogCaptureFixture
) -> None:
    refusal = as_api_error(error)
    assert type(refusal) is kind
    assert refusal.retryable
    assert refusal.retry_after is not None
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("error", [TimeoutError(), ValueError("secret"), ResponseError("WRONGTYPE secret")])
def test_anything_else_is_logged_with_its_traceback_and_told_without_its_text(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = as_api_error(error)
    assert type(refusal) is InternalError
    assert "secret" not in refusal.message
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
