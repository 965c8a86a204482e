"""One policy for every call to remote storage: try again with jittered waits until a budget of time is spent.

    data = retry.call(lambda: fs.cat_file(path), path)

Exponential backoff with full jitter: the wait after try n is drawn evenly from 0 to 0.1 s x 2^n, at most 8 s. The draw
decides how long to wait and nothing else. What never gets better (not found, forbidden, no space, a bad request) is
raised at once. The budget counts from the first failure of one call, failed tries included.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from curate.errors import SpecError

T = TypeVar("T")
BUDGET_S = 60.0
VARIABLE = "CURATE_RETRY_SECONDS"
_FIRST_S = 0.2
_LONGEST_S = 8.0
_TELL_AFTER_S = 2.0
_TELL_EVERY_S = 30.0
_STILL_GONE_S = 10.0
_LOG = logging.getLogger("curate.storage")
_RANDOM = random.Random()  # our own: seeding the global one must not make all workers wait alike

#: Packages whose exceptions are about the storage, not about this program.
_LIBRARIES = {"botocore", "aiobotocore", "aiohttp", "s3fs", "gcsfs", "google", "adlfs", "azure", "huggingface_hub"}
_LIBRARIES |= {"fsspec", "requests", "urllib3", "httpx", "httpcore"}
_TRANSIENT_CLASSES = {
    "EndpointConnectionError",
    "HTTPClientError",  # of botocore: timeouts, closed connections, proxies
    "ResponseParserError",  # of botocore: a rate limit that answers with broken XML
    "ResponseStreamingError",
    "IncompleteReadError",
    "IncompleteRead",
    "ClientConnectionError",  # of aiohttp
    "ClientPayloadError",
    "TransportError",  # of httpx
    "ChunkedEncodingError",  # of requests
    "ConnectTimeout",
    "ReadTimeout",
    "ProtocolError",
}
_PERMANENT_CLASSES = {"SSLError", "ClientSSLError", "InvalidProxiesConfigError", "InvalidURL"}
_NO_CREDENTIALS = {
    "NoCredentialsError",
    "PartialCredentialsError",
    "CredentialRetrievalError",
    "TokenRetrievalError",
    "ProfileNotFound",
    "DefaultCredentialsError",
}
#: Answers of S3 that look like the caller's mistake and are not: what was sent was cut or changed on its way, or the
#: server forgot an unfinished upload.
_TRANSIENT_CODES = {"IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "RequestTimeout", "NoSuchUpload"}
_TRANSIENT_CODES |= {"SlowDown", "ServiceUnavailable", "InternalError", "OperationAborted", "Throttling"}
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504, 507, 509, 520, 522, 524}
_TRANSIENT_ERRNO = {
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.EPIPE,
    errno.ETIMEDOUT,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.ENETDOWN,
    errno.EBUSY,
    errno.EAGAIN,
    getattr(errno, "EREMOTEIO", errno.EBUSY),
}
_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "FSSPEC_S3_SECRET")


class GaveUp(OSError):
    """Storage that did not answer as it should until the budget was spent; the message says how long and why."""


def budget() -> float:
    """Seconds that one call may be tried again for: CURATE_RETRY_SECONDS, else 60. Raises SpecError."""
    text = os.environ.get(VARIABLE, "")
    try:
        seconds = float(text) if text.strip() else BUDGET_S
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise SpecError(f"{VARIABLE} is {text!r}; give a number of seconds, such as 60, or 0 to try once")
    return seconds


def call(action: Callable[[], T], where: str) -> T:
    """What `action()` returns; tried again while its errors are transient. `where` names the file in warnings.

    Raises GaveUp when the budget is spent, else OSError: what storage libraries raise of their own becomes one too.
    Other errors pass. The action must be safe to repeat. Where a call gave up just now and nothing succeeded since, one
    try must do: a run that ends because its storage is gone does not wait again for each of its last words.
    """
    began, tries, told = 0.0, 0, False
    place = "/".join(where.split("/", 3)[:3])
    while True:
        try:
            result = action()
        except Exception as error:
            plain = as_os_error(error)
            if plain is None:
                raise
            reason = _passing(error)
            if reason is None:
                if plain is error:
                    raise
                raise plain from error
            now = time.monotonic()
            began = began or now
            tries += 1
            left = began + budget() - now
            if left <= 0 or now - _GAVE_UP.get(place, float("-inf")) < _STILL_GONE_S:
                _GAVE_UP[place] = now
                times = "once" if tries == 1 else f"{tries} times in {now - began:.0f} s"
                raise GaveUp(f"tried {times} without success, last error: {said(reason)}") from error
            if now - began >= _TELL_AFTER_S:
                told |= _tell(f"{where}: the storage does not answer ({said(reason)}); trying again for {left:.0f} s")
            time.sleep(min(left, _RANDOM.uniform(0, min(_LONGEST_S, _FIRST_S * 2 ** min(tries - 1, 16)))))
        else:
            _GAVE_UP.pop(place, None)
            if told:
                _LOG.warning("%s: the storage answers again after %.0f s", where, time.monotonic() - began)
            return result


def is_transient(error: BaseException) -> bool:
    """Whether the same call may well succeed a little later."""
    return _passing(error) is not None


def _passing(error: BaseException) -> BaseException | None:
    """Of an error and its causes the one that may pass; libraries say "not found" of a server that is not there."""
    for link in _chain(error):
        names = {cls.__name__ for cls in type(link).__mro__}
        if names & _PERMANENT_CLASSES:
            return None
        code, status = _code(link), status_of(link)
        if code is not None or status is not None:
            return link if code in _TRANSIENT_CODES or status in _TRANSIENT_STATUS else None
        if (
            isinstance(link, (ConnectionError, TimeoutError, socket.gaierror))
            or (names & _TRANSIENT_CLASSES and _is_of_library(link))
            or (isinstance(link, RuntimeError) and str(link) == "Session is closed")
            or (isinstance(link, OSError) and link.errno in _TRANSIENT_ERRNO)
        ):
            return link
    return None


def as_os_error(error: Exception) -> OSError | None:
    """The error as an OSError, which callers turn into a sentence; None when it is not about storage."""
    if isinstance(error, OSError) and not _is_of_library(error):
        return error
    if {cls.__name__ for cls in type(error).__mro__} & _NO_CREDENTIALS:
        return PermissionError(f"no credentials ({said(error)})")
    if _is_of_library(error):
        status = status_of(error)
        kind = PermissionError if status in (401, 403) else FileNotFoundError if status in (404, 410) else OSError
        return error if isinstance(error, kind) else kind(said(error))
    return OSError(said(error)) if is_transient(error) else None


def code_of(error: BaseException) -> str | None:
    """The name that S3 gives the error, such as NoSuchBucket, when it has one."""
    return next((code for link in _chain(error) if (code := _code(link)) is not None), None)


def status_of(error: BaseException) -> int | None:
    """HTTP status of one error of a storage library, whichever way it keeps it."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(response, "status_code", None)
        for name in ("status", "status_code", "code"):
            found = getattr(error, name, None) if found is None else found
    if isinstance(found, str) and found.isdigit():
        found = int(found)
    return found if isinstance(found, int) and 100 <= found < 600 else None


def said(error: BaseException) -> str:
    """The error's own words in one line, without any secret of the environment."""
    text = " ".join(str(error).split()) or type(error).__name__
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return text


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes, outermost first."""
    link: BaseException | None = error
    for _ in range(8):
        if link is None:
            return
        yield link
        link = link.__cause__


def _code(error: BaseException) -> str | None:
    response = getattr(error, "response", None)
    details = response.get("Error") if isinstance(response, dict) else None
    code = details.get("Code") if isinstance(details, dict) else None
    return code if isinstance(code, str) and not code.isdigit() else None


def _is_of_library(error: BaseException) -> bool:
    return any(cls.__module__.partition(".")[0] in _LIBRARIES for cls in type(error).__mro__)


_TOLD_AT = [float("-inf")]
_GAVE_UP: dict[str, float] = {}
"""Bucket or host -> when a call to it last gave up, by the monotonic clock."""


def _tell(text: str) -> bool:
    """One line now and then a process, however many calls wait; true when this call's line was shown."""
    now = time.monotonic()
    if now - _TOLD_AT[0] < _TELL_EVERY_S:
        return False
    _TOLD_AT[0] = now
    _LOG.warning("%s", text)
    return True
