from __future__ import annotations

import errno
import itertools
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import botocore.exceptions as boto
import multidict
import pytest
import yarl
from s3fs.errors import translate_boto_error

from curate.errors import SpecError
from curate.store import retry


@pytest.fixture(autouse=True)
def nothing_gave_up() -> None:
    retry._GAVE_UP.clear()


def answer(code: str, status: int) -> Exception:
    """What s3fs raises for an answer of S3."""
    response = {"Error": {"Code": code, "Message": f"says {code}"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    error: Exception = translate_boto_error(boto.ClientError(response, "GetObject"))  # type: ignore[arg-type]
    return error


def refused() -> Exception:
    """What the operating system says of a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(ConnectionRefusedError) as caught:
        socket.create_connection(("127.0.0.1", port))
    return caught.value


def http_status(status: int) -> Exception:
    url = yarl.URL("http://host/x")
    asked = aiohttp.RequestInfo(url, "GET", multidict.CIMultiDictProxy(multidict.CIMultiDict()), url)
    return aiohttp.ClientResponseError(asked, (), status=status, message="x")


TRANSIENT: list[Callable[[], Exception]] = [
    refused,
    lambda: ConnectionResetError(errno.ECONNRESET, "reset"),
    lambda: TimeoutError(),
    lambda: socket.gaierror(-3, "Temporary failure in name resolution"),
    lambda: boto.EndpointConnectionError(endpoint_url="http://x"),
    lambda: boto.ReadTimeoutError(endpoint_url="http://x"),
    lambda: boto.ConnectionClosedError(endpoint_url="http://x"),
    lambda: boto.IncompleteReadError(actual_bytes=1, expected_bytes=2),
    lambda: aiohttp.ClientPayloadError("cut"),
    lambda: aiohttp.ServerDisconnectedError(),
    lambda: http_status(503),
    lambda: http_status(429),
    lambda: answer("SlowDown", 503),
    lambda: answer("InternalError", 500),
    lambda: answer("502", 502),
    lambda: answer("RequestTimeout", 400),
    lambda: answer("IncompleteBody", 400),
    lambda: answer("NoSuchUpload", 404),
    lambda: RuntimeError("Session is closed"),
]
FOR_GOOD: list[Callable[[], Exception]] = [
    lambda: FileNotFoundError("x"),
    lambda: PermissionError("x"),
    lambda: IsADirectoryError("x"),
    lambda: OSError(errno.ENOSPC, "No space left on device"),
    lambda: OSError("no errno"),
    lambda: answer("NoSuchKey", 404),
    lambda: answer("NoSuchBucket", 404),
    lambda: answer("AccessDenied", 403),
    lambda: answer("InvalidAccessKeyId", 403),
    lambda: answer("SignatureDoesNotMatch", 403),
    lambda: answer("InvalidRange", 416),
    lambda: answer("InvalidArgument", 400),
    lambda: answer("NotImplemented", 501),
    lambda: http_status(404),
    lambda: http_status(403),
    lambda: boto.NoCredentialsError(),
    lambda: boto.SSLError(endpoint_url="http://x", error="certificate verify failed"),
    lambda: RuntimeError("something else"),
    lambda: ValueError("x"),
]


def failing(times: int, make: Callable[[], Exception]) -> tuple[Callable[[], str], list[float]]:
    """An action that raises so many times and then returns; and when it was called."""
    calls: list[float] = []

    def action() -> str:
        calls.append(time.monotonic())
        if len(calls) <= times:
            raise make()
        return "done"

    return action, calls


@pytest.mark.parametrize("make", TRANSIENT)
def test_what_may_pass_is_tried_again(make: Callable[[], Exception]) -> None:
    assert retry.is_transient(make())
    action, calls = failing(2, make)
    assert retry.call(action, "s3://b/x") == "done"
    assert len(calls) == 3


@pytest.mark.parametrize("make", FOR_GOOD)
def test_what_never_gets_better_is_raised_at_once(make: Callable[[], Exception]) -> None:
    assert not retry.is_transient(make())
    action, calls = failing(99, make)
    with pytest.raises(type(make()) if isinstance(make(), (OSError, RuntimeError, ValueError)) else OSError):
        retry.call(action, "s3://b/x")
    assert len(calls) == 1


def test_library_errors_become_those_of_the_operating_system() -> None:
    kinds = [(http_status(404), FileNotFoundError), (http_status(403), PermissionError), (http_status(410), OSError)]
    kinds += [(boto.NoCredentialsError(), PermissionError), (boto.ParamValidationError(report="bad name"), OSError)]
    for error, kind in kinds:
        assert isinstance(retry.as_os_error(error), kind)
    assert retry.as_os_error(ValueError("x")) is None
    assert retry.as_os_error(ZeroDivisionError()) is None
    assert retry.code_of(answer("NoSuchBucket", 404)) == "NoSuchBucket"


def test_the_budget_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retry.VARIABLE, "0.7")
    action, calls = failing(10**6, refused)
    began = time.monotonic()
    with pytest.raises(retry.GaveUp, match=r"tried \d+ times in \d s without success, last error: .*refused"):
        retry.call(action, "s3://b/x")
    assert 0.7 <= time.monotonic() - began < 30
    assert len(calls) >= 3
    assert calls[-1] - calls[0] >= 0.7  # the last try is when the budget is spent, not before


def test_after_giving_up_one_try_must_do_until_something_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retry.VARIABLE, "0.3")
    for where, tries in (("s3://gone/x", 2), ("s3://gone/y/z", 1), ("s3://other/x", 2)):
        action, calls = failing(10**6, refused)
        with pytest.raises(retry.GaveUp):
            retry.call(action, where)
        assert len(calls) == 1 if tries == 1 else len(calls) >= 2
    assert retry.call(lambda: 1, "s3://gone/back") == 1
    action, calls = failing(1, refused)
    assert retry.call(action, "s3://gone/x") == "done"


def test_a_budget_of_nothing_tries_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(retry.VARIABLE, "0")
    action, calls = failing(1, refused)
    with pytest.raises(retry.GaveUp, match="tried once without success"):
        retry.call(action, "s3://b/x")
    assert len(calls) == 1


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_budget_that_is_none(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(retry.VARIABLE, text)
    with pytest.raises(SpecError, match=retry.VARIABLE):
        retry.budget()


def test_the_budget_is_a_minute_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (None, "", " "):
        monkeypatch.delenv(retry.VARIABLE, raising=False) if text is None else monkeypatch.setenv(retry.VARIABLE, text)
        assert retry.budget() == 60.0
    monkeypatch.setenv(retry.VARIABLE, "12.5")
    assert retry.budget() == 12.5


def test_waits_grow_and_are_not_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter: the n-th wait is drawn from 0 to 0.1 x 2^n s. The draws are our own: no seed makes workers alike."""
    import random

    monkeypatch.setenv(retry.VARIABLE, "5")
    seen = []
    for _ in range(3):
        random.seed(1)
        action, calls = failing(3, refused)
        retry.call(action, "x")
        waits = [b - a for a, b in itertools.pairwise(calls)]
        assert all(wait <= 0.1 * 2**n + 0.3 for n, wait in enumerate(waits, 1))
        seen.append(tuple(round(wait, 4) for wait in waits))
    assert len(set(seen)) == 3


def test_a_long_wait_is_told_once_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retry, "_TELL_AFTER_S", 0.3)
    monkeypatch.setattr(retry, "_TOLD_AT", [float("-inf")])
    until = time.monotonic() + 1.5

    def action() -> None:
        if time.monotonic() < until:
            raise refused()

    with caplog.at_level(logging.WARNING):
        retry.call(action, "s3://b/x")
    first, last = [record.getMessage() for record in caplog.records]
    assert first.startswith("s3://b/x: the storage does not answer (")
    assert "trying again for" in first
    assert last.startswith("s3://b/x: the storage answers again after ")


def test_secrets_of_the_environment_are_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush-hush")
    monkeypatch.setenv(retry.VARIABLE, "0")
    assert retry.said(OSError("sent hush-hush\n to x")) == "sent *** to x"

    def action() -> Any:
        raise ConnectionError("sent hush-hush")

    with pytest.raises(retry.GaveUp) as caught:
        retry.call(action, "x")
    assert "hush-hush" not in str(caught.value)
    assert retry.said(TimeoutError()) == "TimeoutError"
    assert os.environ["AWS_SECRET_ACCESS_KEY"] == "hush-hush"
