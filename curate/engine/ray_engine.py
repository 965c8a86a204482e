"""The Ray engine: tasks for light work, actors that keep a model for heavy work."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import psutil
import ray
import ray.exceptions
from ray import cloudpickle

from curate.engine.base import Done, Failure, Item, Need, Result, attempt
from curate.engine.reaper import SERVERS, Reaper, end
from curate.engine.watch import DIED, Watch, name_of, runs
from curate.errors import EngineError, Terminated

RETRIES = 3
"""How often an item is tried again when its worker or node dies."""
_TICK_S = 1.0
_LOOK_S = 0.02
"""Ray's servers are looked at no more often than this: a look costs as much as sending an item."""
_GROW_S = 5.0
_CONNECT_S = 10.0
_INLINE_BYTES = 64 << 10
"""A pickled function up to this size travels with each item; a larger one is stored once in Ray's object store."""


class _Worker:
    """An actor that runs any function; state lives in curate.engine.state."""

    def run(self, folder: str, function: Callable[[Any], Any], item: Any) -> Any:
        return _attempt_in(folder, function, item)


def _attempt_in(folder: str, function: Callable[[Any], Any], item: Any) -> Any:
    """Call it in the driver's folder, where that exists, so that relative paths mean the same everywhere."""
    if folder != str(Path.cwd()) and Path(folder).is_dir():
        os.chdir(folder)
    return attempt(function, item)


class RayEngine:
    """Runs items on a Ray cluster: a local one of its own, or the one at `address`."""

    _left_over: ClassVar[bool] = False
    """True when this process still holds the client of a Ray that died."""

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        """Connect to `address`, or start a local Ray with `workers` CPUs (default: all). Raises EngineError."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self.local = address is None
        self.lost = False
        self._looked = 0.0
        if RayEngine._left_over:
            with contextlib.suppress(Exception):
                ray.shutdown()
            RayEngine._left_over = False
        if ray.is_initialized():
            raise EngineError("this process uses a Ray already; call ray.shutdown() first, or run with workers=0")
        self._reaper = Reaper() if self.local else None
        self._watch = Watch() if self.local else None
        before = set(psutil.Process().children(recursive=True))
        try:
            with _own_sigterm():
                self._connect(address, workers)
        except Exception as error:  # ray raises bare Exceptions here, too
            died = self._watch is not None and self._watch.died
            self._processes, self._servers = [], []
            self.close()
            if died:
                raise EngineError(DIED) from error
            where = "start a local Ray" if self.local else f"reach the Ray cluster at {address}"
            raise EngineError(
                f"cannot {where}: {error}; check --address and RAY_ADDRESS, and RAY_AUTH_TOKEN if it uses tokens"
            ) from error
        self.address = address
        started = set(psutil.Process().children(recursive=True)) - before if self.local else set()
        self._processes = sorted(started, key=lambda child: child.pid)
        if self._reaper is not None:
            self._reaper.guard(self._processes)
        self._servers = [child for child in self._processes if name_of(child) in SERVERS]
        if self._watch is not None:
            self._watch.started(self._servers)

    def _connect(self, address: str | None, workers: int | None) -> None:
        common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "ignore_reinit_error": False}
        if address is None:
            # Items and results are small; data goes through the store, so a small object store is enough.
            with _without_dashboard():
                ray.init(
                    address="local", num_cpus=workers, include_dashboard=False, object_store_memory=128 << 20, **common
                )
        else:
            _reachable(address)
            ray.init(address=address, **common)

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], need: Need
    ) -> Iterator[Done[Item, Result]]:
        """Run items on tasks, or on actors when `need.state` is set. In flight: two items a worker."""
        self._check_alive()
        # Ray ends the whole process at once when it finds its object store gone: what is small stays out of it
        shared = function if len(cloudpickle.dumps(function)) <= _INLINE_BYTES else ray.put(function)
        runner = _Actors if need.state else _Tasks
        with _stops_as_they_are(), contextlib.closing(runner(shared, need, self)) as submit:
            yield from self._drive(items, submit)

    def _drive(self, items: Iterable[Item], submit: _Submitter) -> Iterator[Done[Item, Result]]:
        pending: dict[Any, Item] = {}
        queue = iter(items)
        exhausted = False
        while True:
            while not exhausted and len(pending) < submit.capacity():
                try:
                    item = next(queue)
                except StopIteration:
                    exhausted = True
                    break
                self._check_alive()
                pending[submit(item)] = item
            if not pending:
                return
            self._check_alive()
            ready, _ = ray.wait(list(pending), num_returns=1, timeout=_TICK_S)
            for ref in ready:
                item = pending.pop(ref)
                submit.finished(ref)
                try:
                    result = ray.get(ref)
                except ray.exceptions.RayError as error:
                    # its server's end looks at first like the loss of a worker
                    time.sleep(_TICK_S)
                    self._check_alive()
                    raise EngineError(
                        f"the worker of {item} was lost {RETRIES + 1} times ({type(error).__name__}: "
                        f"{str(error).splitlines()[0]}); finished parts are kept, run the same command again"
                    ) from error
                if isinstance(result, Failure):
                    result.throw(item)
                yield Done(item, result)

    def workers(self, need: Need) -> int:
        """Workers that fit into the cluster as it is now."""
        total = ray.cluster_resources()
        fits = [total.get("CPU", 1) / need.cpus] if need.cpus else []
        if need.gpus:
            fits.append(total.get("GPU", 0) / need.gpus)
        return max(1, int(min(fits, default=1)))

    def describe(self) -> dict[str, Any]:
        """Version, address and resources, for run.json."""
        total = ray.cluster_resources()
        return {
            "engine": "ray",
            "ray": ray.__version__,
            "address": self.address or "local",
            "nodes": sum(1 for node in ray.nodes() if node["Alive"]),
            "cpus": int(total.get("CPU", 0)),
            "gpus": int(total.get("GPU", 0)),
        }

    def _check_alive(self) -> None:
        if not self.lost and time.monotonic() - self._looked >= _LOOK_S:
            self.lost = any(not runs(server) for server in self._servers)
            self._looked = time.monotonic()
        if self.lost:
            raise EngineError(DIED)

    def close(self) -> None:
        """Stop the local Ray, or disconnect. What is left of a Ray that died is killed: asking it is slow."""
        if self._watch is not None:
            self._watch.stop()
        self.lost = self.lost or any(not runs(server) for server in self._servers)
        if self.lost:
            end(self._processes)
            RayEngine._left_over = True
            if getattr(sys.excepthook, "__module__", "").startswith("ray."):
                sys.excepthook = sys.__excepthook__  # Ray's waits a minute for its server before it shows an error
        else:
            with contextlib.suppress(Exception):
                ray.shutdown()
            if any(runs(process) for process in self._processes):  # it died while it was being stopped
                end(self._processes)
        if self._reaper is not None:
            self._reaper.dismiss()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep this process's handler of SIGTERM: Ray puts one of its own, which would end a run without a word."""
    handler = signal.getsignal(signal.SIGTERM)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        yield
    except SystemExit as error:  # Ray's handler was called while Ray started
        raise Terminated from error
    finally:
        signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _stops_as_they_are() -> Iterator[None]:
    """A signal whose handler raises while ray.wait waits comes out of it as a SystemError."""
    try:
        yield
    except SystemError as error:
        if isinstance(error.__cause__, KeyboardInterrupt | Terminated):
            raise error.__cause__ from None
        raise


@contextlib.contextmanager
def _without_dashboard() -> Iterator[None]:
    """Ray starts its agents without metrics and job server, as if `ray[default]` were not installed.

    Nobody asks a local Ray for these; they take memory, a second or more of its start, and Ray ends itself when a busy
    machine has not started them within 15 s.
    """
    name = "ray.dashboard.optional_deps"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # Python's way to make an import fail
    try:
        yield
    finally:
        del sys.modules[name]
        if before is not None:
            sys.modules[name] = before


def _reachable(address: str | None) -> None:
    """Knock first: ray itself would try a wrong address for a minute. Raises OSError."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()


class _Submitter:
    """Hands items to workers and knows how many may be in flight."""

    def __init__(self, shared: Any, need: Need, engine: RayEngine) -> None:
        self.shared, self.need, self.engine = shared, need, engine
        self.folder = str(Path.cwd())
        self._slots, self._checked = 0, 0.0

    def slots(self) -> int:
        """Workers that fit, asked of the cluster every few seconds: it may grow."""
        if time.monotonic() - self._checked > _GROW_S or not self._slots:
            self._slots, self._checked = self.engine.workers(self.need), time.monotonic()
        return self._slots

    def capacity(self) -> int:
        return 2 * self.slots()

    def __call__(self, item: Any) -> Any:
        raise TypeError("abstract")

    def finished(self, ref: Any) -> None:
        """Called with each reference that is done."""

    def close(self) -> None:
        """Release workers."""


class _Tasks(_Submitter):
    def __init__(self, shared: Any, need: Need, engine: RayEngine) -> None:
        super().__init__(shared, need, engine)
        self._remote = ray.remote(_attempt_in).options(
            num_cpus=need.cpus, num_gpus=need.gpus, max_retries=RETRIES, retry_exceptions=False
        )

    def __call__(self, item: Any) -> Any:
        return self._remote.remote(self.folder, self.shared, item)


class _Actors(_Submitter):
    def __init__(self, shared: Any, need: Need, engine: RayEngine) -> None:
        super().__init__(shared, need, engine)
        self._remote = ray.remote(_Worker).options(
            num_cpus=need.cpus, num_gpus=need.gpus, max_restarts=-1, max_task_retries=RETRIES
        )
        self._pool: list[Any] = []
        self._load: list[int] = []
        self._of: dict[Any, int] = {}

    def __call__(self, item: Any) -> Any:
        idle = min(range(len(self._pool)), key=self._load.__getitem__, default=-1)
        if idle < 0 or (self._load[idle] and len(self._pool) < self.slots()):
            self._pool.append(self._remote.remote())
            self._load.append(0)
            idle = len(self._pool) - 1
        ref = self._pool[idle].run.remote(self.folder, self.shared, item)
        self._load[idle] += 1
        self._of[ref] = idle
        return ref

    def finished(self, ref: Any) -> None:
        self._load[self._of.pop(ref)] -= 1

    def close(self) -> None:
        if self.engine.lost:
            return
        for actor in self._pool:
            with contextlib.suppress(Exception):
                ray.kill(actor)
