"""Addresses, variables and the meaning of a job's end; and Ray's own client against a job server that breaks off."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from curate.engine.submit import DEFAULT_ADDRESS, Jobs, choose_address, is_here, outcome_of, passed_on
from curate.errors import EngineError, ExitCode, SpecError


@pytest.fixture(autouse=True)
def _without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of this machine must not turn authentication on in the process of the tests."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


def test_the_address_is_the_given_one_then_the_variables_then_this_machine() -> None:
    both = {"RAY_API_SERVER_ADDRESS": "http://a:1", "RAY_ADDRESS": "b:2"}
    assert choose_address("c:3", both) == "c:3"
    assert choose_address(None, both) == "http://a:1"
    assert choose_address(None, {"RAY_API_SERVER_ADDRESS": "", "RAY_ADDRESS": "b:2"}) == "b:2"
    assert choose_address(None, {}) == DEFAULT_ADDRESS


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("http://127.0.0.1:8265", True),
        ("127.0.0.5:6379", True),
        ("localhost:6379", True),
        ("http://[::1]:8265", True),
        ("auto", True),
        ("http://192.0.2.77:8265", False),
        ("https://ray.example.org", False),
        ("ray://head:10001", False),
    ],
)
def test_which_addresses_are_this_machine(address: str, here: bool) -> None:
    assert is_here(address) is here


def test_variables_are_passed_by_name_or_with_a_value() -> None:
    assert passed_on(["A", "B=x=y", "C="], {"A": "1", "B": "2"}) == {"A": "1", "B": "x=y", "C": ""}
    with pytest.raises(SpecError, match="--env D: the variable is not set here"):
        passed_on(["D"], {})
    with pytest.raises(SpecError, match="is not the name of a variable"):
        passed_on(["1 D=2"], {})


@pytest.mark.parametrize("code", [1, 2, 3, 4, 6, 7, 8, 130, 143])
def test_the_exit_code_of_the_command_comes_through(code: int) -> None:
    assert outcome_of("j", "FAILED", code, None, "follow").code == code
    told = f"Job entrypoint command failed with exit code {code}, last available logs"
    assert outcome_of("j", "FAILED", None, told, "follow").code == code


@pytest.mark.parametrize(
    ("status", "exit_code", "message", "code", "phrase"),
    [
        ("SUCCEEDED", 0, None, 0, None),
        ("STOPPED", None, None, 143, "was stopped; finished parts are kept"),
        ("FAILED", -9, None, 6, "killed by signal 9"),
        ("FAILED", 137, None, 6, "killed by signal 9"),
        ("FAILED", 127, None, 6, "found no curate on the cluster"),
        ("FAILED", None, "\nruntime_env setup failed.\nmore", 6, "could not be run: runtime_env setup failed;"),
        ("RUNNING", None, None, 6, "is RUNNING still"),
    ],
)
def test_other_ends_are_sentences(
    status: str, exit_code: int | None, message: str | None, code: int, phrase: str | None
) -> None:
    found = outcome_of("j", status, exit_code, message, "follow")
    assert found.code == code
    assert (found.sentence is None) if phrase is None else phrase in str(found.sentence)


def test_nobody_answers() -> None:
    began = time.monotonic()
    with pytest.raises(EngineError, match=r"no Ray job server answers at http://127\.0\.0\.1:9 .*ray start --head"):
        Jobs("http://127.0.0.1:9")
    assert time.monotonic() - began < 60
    assert EngineError.exit_code == ExitCode.ENGINE


@dataclass
class Server:
    """A job server as far as following a job goes; its log connection breaks as often as told."""

    lines: list[str] = field(default_factory=lambda: [f"line {n}\n" for n in range(6)])
    breaks: int = 0
    tails: int = 0
    exit_code: int = 8
    url: str = ""

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "4", "ray_version": "2.50.0", "ray_commit": "", "session_name": ""})

    async def job(self, _: web.Request) -> web.Response:
        status = "RUNNING" if self.tails <= self.breaks else "FAILED"
        found = {"type": "SUBMISSION", "status": status, "entrypoint": "x", "driver_exit_code": self.exit_code}
        return web.json_response(found)

    async def tail(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.tails += 1
        if self.tails <= self.breaks:
            await socket.send_str("".join(self.lines[: self.tails + 1]))
            assert request.transport is not None
            request.transport.abort()
            return socket
        for line in self.lines:
            await socket.send_str(line)
        await socket.close()
        return socket


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    loop, ready, stopping = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/api/version", server.version)
        app.router.add_get("/api/jobs/j/logs/tail", server.tail)
        app.router.add_get("/api/jobs/j", server.job)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        address: Any = runner.addresses[0]
        server.url = f"http://127.0.0.1:{address[1]}"
        ready.set()
        await stopping.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(10)


@pytest.mark.parametrize("breaks", [0, 1, 2])
def test_a_log_that_breaks_off_goes_on_where_it_was(breaks: int) -> None:
    heard: list[str] = []
    with serving(Server(breaks=breaks)) as server:
        found = Jobs(server.url).follow("j", heard.append)
    assert "".join(heard) == "".join(server.lines)
    assert server.tails == breaks + 1
    assert (found.code, found.sentence) == (8, None)


def test_a_dashboard_is_recognised_without_http(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Server()) as server:
        # the variable would win over the address that was given
        monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
        assert Jobs(server.url.removeprefix("http://")).address == server.url
