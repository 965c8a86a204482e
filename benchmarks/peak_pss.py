"""Run a command and print its wall seconds and the peak of the summed PSS of all its processes (Linux).

    python benchmarks/peak_pss.py -- curate run pipelines/quickstart.yaml --ok-if-quarantined

PSS counts a page shared by n processes as 1/n in each, so the sum is what the command really holds.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
import time

import psutil

EVERY_S = 0.25


def summed_pss(root: psutil.Process) -> tuple[int, int]:
    """Bytes of PSS of a process and all its descendants now, and how many there are."""
    total = processes = 0
    for process in [root, *root.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
            processes += 1
    return total, processes


def main() -> int:
    command = sys.argv[sys.argv.index("--") + 1 :]
    start = time.monotonic()
    child = subprocess.Popen(command)
    peak = [0, 0]
    finished = threading.Event()

    def watch() -> None:
        root = psutil.Process(child.pid)
        while not finished.wait(EVERY_S):
            with contextlib.suppress(psutil.Error):
                peak[:] = max(peak, list(summed_pss(root)))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    code = child.wait()
    finished.set()
    watcher.join()
    print(
        f"peak summed PSS {peak[0] / 2**30:.2f} GiB in {peak[1]} processes, "
        f"{time.monotonic() - start:.1f} s wall, exit code {code}"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
