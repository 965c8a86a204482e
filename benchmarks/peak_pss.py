"""Run a command and print its wall seconds and the peak of the summed PSS of all its processes (Linux).

    python benchmarks/peak_pss.py -- curate run pipelines/quickstart.yaml --ok-if-quarantined

PSS counts a page shared by n processes as 1/n in each, so the sum is what the command really holds. Pages of files that
are mapped into memory count too, although the kernel may take them back: they are told apart. Other benchmarks import
`Peak` to look at themselves.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

import psutil

EVERY_S = 0.25


def pss_of(pid: int) -> tuple[int, int]:
    """Bytes of PSS of one process now, and how many of them are mapped files."""
    found = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Pss", "Pss_File"):
            found[name] = int(rest.split()[0]) << 10
    return found.get("Pss", 0), found.get("Pss_File", 0)


def tree_of(root: psutil.Process) -> list[psutil.Process]:
    """A process and all its descendants."""
    with contextlib.suppress(psutil.Error):
        return [root, *root.children(recursive=True)]
    return []


def bytes_under(folder: Path) -> int:
    """Bytes of all files under a folder now; files come and go meanwhile."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total


class Peak:
    """Looks at a process tree from a thread while a block runs; `folder`: also at the bytes that lie in it.

    After the block: `pss` bytes at the peak, `mapped` bytes of them that are mapped files, `processes` at the peak,
    `driver` bytes of PSS of the root process at its own peak, `folder_bytes` at their peak.
    """

    def __init__(self, pid: int | None = None, folder: Path | None = None, every_s: float = EVERY_S) -> None:
        self._root = psutil.Process(pid)
        self._folder, self._every_s = folder, every_s
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.pss = self.mapped = self.processes = self.driver = self.folder_bytes = 0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finished.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.look()
            if self._finished.wait(self._every_s):
                self.look()
                return

    def look(self) -> None:
        """Note what is there now."""
        total = mapped = processes = 0
        for process in tree_of(self._root):
            with contextlib.suppress(OSError):
                pss, files = pss_of(process.pid)
                total, mapped, processes = total + pss, mapped + files, processes + 1
                if process.pid == self._root.pid:
                    self.driver = max(self.driver, pss)
        if total > self.pss:
            self.pss, self.mapped, self.processes = total, mapped, processes
        if self._folder is not None:
            self.folder_bytes = max(self.folder_bytes, bytes_under(self._folder))


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1 :]
    start = time.monotonic()
    child = subprocess.Popen(command)
    with Peak(child.pid) as peak:
        code = child.wait()
    print(
        f"peak summed PSS {peak.pss / 2**30:.2f} GiB ({peak.mapped / 2**30:.2f} of it mapped files) in "
        f"{peak.processes} processes, {time.monotonic() - start:.1f} s wall, exit code {code}"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
