"""Jobs on a Ray cluster: find its job server, hand a command over, follow what it prints, tell how it ended.

What never lives here: which command that is, and what is in the working directory (curate.engine.package).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import re
import shlex
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from curate.engine.auth import choose_auth
from curate.errors import CurateError, Detached, EngineError, ExitCode, SpecError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
"""Where `ray start --head` puts the job server of its machine."""
STOP_WAIT_S = 30
"""Between SIGTERM and SIGKILL of a job that is stopped; Ray's own 3 s can be too short to write run.json."""
_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_CHATTY = ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
_CONNECT_S = 10.0
_PROBE_S = 5.0
_POLL_S = 0.2
_SETTLE_S = 30.0
"""How long a job may take from the end of its log to its final status."""
_RECONNECTS = 5
_FAILED = re.compile(r"exit code (-?\d+)")
_SHELL_NOT_FOUND = 127


@dataclass(frozen=True)
class Outcome:
    """How a job ended: exit code for the shell, and a sentence unless its command has said everything."""

    code: int
    sentence: str | None = None


def choose_address(given: str | None, env: Mapping[str, str] | None = None) -> str:
    """The cluster's address: what was given, else RAY_API_SERVER_ADDRESS, RAY_ADDRESS, this machine's cluster."""
    env = os.environ if env is None else env
    named = (env.get(name) for name in _VARIABLES)
    return given or next((value for value in named if value), DEFAULT_ADDRESS)


def is_here(address: str) -> bool:
    """Whether an address names this machine, as far as its own names and interfaces tell."""
    host = (urlsplit(address if "://" in address else f"//{address}").hostname or "").lower()
    if host in ("", "auto", "local", "localhost", socket.gethostname().lower()):
        return True
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_loopback:
            return True
    return any(host == card.address.lower() for cards in psutil.net_if_addrs().values() for card in cards)


def passed_on(wanted: Sequence[str], env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables for the job: NAME takes its value from here, NAME=VALUE is one. Raises SpecError for an unset NAME."""
    env = os.environ if env is None else env
    found = {}
    for text in wanted:
        name, given, value = text.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise SpecError(f"--env {name!r} is not the name of a variable; write --env NAME or --env NAME=VALUE")
        if not given and name not in env:
            raise SpecError(f"--env {name}: the variable is not set here; set it, or write --env {name}=VALUE")
        found[name] = value if given else env[name]
    return found


class Jobs:
    """The job server of one cluster."""

    def __init__(self, address: str | None = None) -> None:
        """Connect; see `choose_address`. Raises EngineError when nobody answers, or the token is not accepted."""
        wanted = choose_address(address)
        choose_auth(wanted)
        with _explained(wanted), _without_variables():
            self.address = _server(wanted)
            from ray.job_submission import JobSubmissionClient

            for name in _CHATTY:
                logging.getLogger(name).setLevel(logging.WARNING)
            self._client: Any = JobSubmissionClient(self.address)

    def submit(
        self,
        command: Sequence[str],
        *,
        package: Path | None = None,
        folder: Path | None = None,
        env: Mapping[str, str] | None = None,
        submission_id: str | None = None,
    ) -> str:
        """Hand a command over and return the job's id.

        package: a zip file in whose unpacked copy the job works; otherwise it works in `folder`, which must be there
        on the cluster. Raises SpecError when the id was used before, EngineError when the cluster does not take it.
        """
        # exec: signals reach the command and not only a shell around it
        entrypoint = f"exec {shlex.join(command)}"
        runtime: dict[str, Any] = {"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), **(env or {})}}
        if package is not None:
            runtime["working_dir"] = str(package)
        elif folder is not None:
            entrypoint = f"cd {shlex.quote(str(folder))} && {entrypoint}"
        with _explained(self.address):
            try:
                return str(
                    self._client.submit_job(entrypoint=entrypoint, runtime_env=runtime, submission_id=submission_id)
                )
            except RuntimeError as error:
                if submission_id is not None and "already exists" in str(error):
                    raise SpecError(
                        f"the cluster has a job {submission_id} already; choose another --submission-id, or follow it "
                        f"with {self.how_to_follow(submission_id)}"
                    ) from error
                raise

    def follow(self, job: str, write: Callable[[str], None]) -> Outcome:
        """Hand what the job prints to `write` as it comes, until the job ends. Memory: one piece of the log.

        Raises Detached on Ctrl-C: the job goes on. Raises EngineError when the cluster is lost.
        """
        try:
            with _explained(self.address):
                asyncio.run(self._tail(job, write))
                return self._outcome(job)
        except KeyboardInterrupt:
            raise Detached(
                f"no longer following job {job}, which goes on; follow it again with {self.how_to_follow(job)}, "
                f"stop it with {self.how_to_stop(job)}"
            ) from None

    def how_to_follow(self, job: str) -> str:
        """The command."""
        return f"ray job logs --address {self.address} --follow {job}"

    def how_to_stop(self, job: str) -> str:
        """The command."""
        return f"ray job stop --address {self.address} {job}"

    async def _tail(self, job: str, write: Callable[[str], None]) -> None:
        written, failures = 0, 0
        while True:
            passed = 0
            try:
                async for text in self._client.tail_job_logs(job):
                    # a new connection begins with the first line again
                    fresh = text[max(0, written - passed) :]
                    passed += len(text)
                    if fresh:
                        write(fresh)
                        written, failures = passed, 0
                return
            except Exception as error:  # ray and aiohttp know many
                with contextlib.suppress(Exception):
                    if self._ended(job):
                        return
                failures += 1
                if failures > _RECONNECTS:
                    raise EngineError(
                        f"lost the log of job {job} ({error}); the job may go on: follow it with "
                        f"{self.how_to_follow(job)}"
                    ) from error
                await asyncio.sleep(min(2.0**failures, 10.0))

    def _ended(self, job: str) -> bool:
        return bool(self._client.get_job_status(job).is_terminal())

    def _outcome(self, job: str) -> Outcome:
        until = time.monotonic() + _SETTLE_S
        while not self._ended(job) and time.monotonic() < until:
            time.sleep(_POLL_S)
        info = self._client.get_job_info(job)
        return outcome_of(
            job, str(info.status.value), getattr(info, "driver_exit_code", None), info.message, self.how_to_follow(job)
        )


def outcome_of(job: str, status: str, exit_code: int | None, message: str | None, follow: str) -> Outcome:
    """What the end of a job means for the shell: the exit code of its command when there is one."""
    again = "finished parts are kept, submit the same command again"
    if status == "SUCCEEDED":
        return Outcome(0)
    if status == "STOPPED":
        return Outcome(ExitCode.TERMINATED, f"job {job} was stopped; {again} to continue")
    if status != "FAILED":
        return Outcome(ExitCode.ENGINE, f"job {job} is {status} still, but its log has ended; follow it with {follow}")
    if exit_code is None and (found := _FAILED.search(message or "")):
        exit_code = int(found[1])
    if exit_code is None:
        why = next((line.strip() for line in (message or "").splitlines() if line.strip()), "no reason given")
        return Outcome(ExitCode.ENGINE, f"job {job} could not be run: {why.rstrip('.')}; {again}")
    if exit_code == _SHELL_NOT_FOUND:
        return Outcome(
            ExitCode.ENGINE,
            f"job {job} found no curate on the cluster; install it on every machine, and run `ray start` where the "
            "shell finds it (in the activated environment)",
        )
    known = {int(code) for code in ExitCode}
    if exit_code < 0 or (exit_code > 128 and exit_code not in known):
        signal = -exit_code if exit_code < 0 else exit_code - 128
        return Outcome(ExitCode.ENGINE, f"job {job} was killed by signal {signal}, perhaps for want of memory; {again}")
    return Outcome(exit_code)


def _server(address: str) -> str:
    """URL of the job server. `host:port` may be that server's or the cluster's own, which knows it."""
    if address.startswith(("http://", "https://")):
        _knock(address)
        return address.rstrip("/")
    from ray.dashboard.utils import get_address_for_submission_client

    if address in ("auto", "local"):
        return str(get_address_for_submission_client("auto"))
    _knock(address)
    if "://" not in address and _speaks_http(f"http://{address}"):
        return f"http://{address}"
    return str(get_address_for_submission_client(address))


def _knock(address: str) -> None:
    """Ray itself would try a wrong address for a minute. Raises OSError."""
    parts = urlsplit(address if "://" in address else f"//{address}")
    port = parts.port or {"https": 443, "http": 80, "ray": 10001}.get(parts.scheme, 6379)
    socket.create_connection((parts.hostname or "127.0.0.1", port), timeout=_CONNECT_S).close()


def _speaks_http(url: str) -> bool:
    import requests

    try:
        requests.get(f"{url}/api/version", timeout=_PROBE_S)
    except requests.RequestException:
        return False
    return True


@contextlib.contextmanager
def _without_variables() -> Iterator[None]:
    """Ray's client prefers these variables to the address it is given."""
    kept = {name: os.environ.pop(name) for name in _VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


@contextlib.contextmanager
def _explained(address: str) -> Iterator[None]:
    """Errors of Ray's client as sentences."""
    try:
        yield
    except CurateError:
        raise
    except Exception as error:  # ray raises bare Exceptions here, too
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if type(error).__name__ == "AuthenticationError":
            said = "refused the token" if "failed" in text or "nvalid" in text else "wants a token"
            raise EngineError(
                f"the Ray cluster at {address} {said}; set RAY_AUTH_TOKEN to the token with which it was started, or "
                "RAY_AUTH_TOKEN_PATH to a file with it"
            ) from error
        if isinstance(error, OSError | ConnectionError):
            raise EngineError(
                f"no Ray job server answers at {address} ({text}); start a cluster with `ray start --head`, or name "
                "one with --address or RAY_API_SERVER_ADDRESS, such as http://10.0.0.1:8265"
            ) from error
        raise EngineError(f"the Ray job server at {address} says: {text}") from error
