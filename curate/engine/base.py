"""What an engine is: it runs a function over items, on workers, and knows nothing of images."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from curate.errors import CurateError

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Need:
    """Resources of one worker. `state` names what the worker keeps between items (a loaded model), if anything."""

    cpus: float = 1.0
    gpus: float = 0.0
    state: str | None = None


@dataclass(frozen=True)
class Done(Generic[Item, Result]):
    """One finished item."""

    item: Item
    result: Result


class Engine(Protocol):
    """Runs `function(item)` for many items. Items and results are small and picklable: data goes through the store."""

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], need: Need
    ) -> Iterator[Done[Item, Result]]:
        """Yield results as they come, in any order. A worker or node that dies is replaced and its item tried again;
        an error raised by `function` ends the map with that error. Memory: the items in flight.
        """
        ...

    def workers(self, need: Need) -> int:
        """How many workers of this kind can run at once now."""
        ...

    def describe(self) -> dict[str, Any]:
        """What this engine runs on, for run.json."""
        ...

    def close(self) -> None:
        """Release workers."""
        ...


@dataclass(frozen=True)
class Failure:
    """An error on its way back from a worker: picklable whatever the original was."""

    error: CurateError | None
    summary: str
    trace: str

    def throw(self, item: object) -> None:
        """Raise it in the driver: a CurateError as it was, anything else as a RuntimeError with the worker's trace."""
        if self.error is not None:
            raise self.error
        raise RuntimeError(f"{self.summary} (while working on {item})\n{self.trace}")


def attempt(function: Callable[[Item], Result], item: Item) -> Result | Failure:
    """Call the function; an exception becomes a Failure."""
    try:
        return function(item)
    except CurateError as error:
        return Failure(error, str(error), "")
    except Exception as error:
        return Failure(None, f"{type(error).__name__}: {error}", traceback.format_exc())


class InlineEngine:
    """Everything in this process, one item after the other: for debugging, and for inputs in memory."""

    def map(
        self, function: Callable[[Item], Result], items: Iterable[Item], need: Need
    ) -> Iterator[Done[Item, Result]]:
        """Run items in order."""
        for item in items:
            yield Done(item, function(item))

    def workers(self, need: Need) -> int:
        """One: this process."""
        return 1

    def describe(self) -> dict[str, Any]:
        """No cluster."""
        return {"engine": "inline", "workers": 0}

    def close(self) -> None:
        """Nothing to release."""
