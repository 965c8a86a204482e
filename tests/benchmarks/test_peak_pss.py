from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.peak_pss import Peak

HOLD = "import time; held = bytearray(b'x') * (150 << 20); print('held', flush=True); time.sleep(30)"


def test_a_peak_sums_the_processes_of_a_tree_and_the_bytes_of_a_folder(tmp_path: Path) -> None:
    with Peak(folder=tmp_path, every_s=0.02) as alone:
        pass
    with Peak(folder=tmp_path, every_s=0.02) as peak:
        children = [subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) for _ in range(2)]
        (tmp_path / "file").write_bytes(bytes(12345))
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"held\n"
        time.sleep(0.3)
        (tmp_path / "file").unlink()
        for child in children:
            child.kill()
            child.communicate()
        time.sleep(0.1)
    more = peak.pss - alone.pss
    assert 300 << 20 < more < 400 << 20
    assert peak.processes == alone.processes + 2
    assert peak.driver < alone.pss + (100 << 20)
    assert (peak.folder_bytes, alone.folder_bytes) == (12345, 0)


def test_the_command_passes_the_exit_code_on() -> None:
    command = [sys.executable, "benchmarks/peak_pss.py", "--", sys.executable, "-c", "raise SystemExit(3)"]
    done = subprocess.run(command, cwd=Path(__file__).resolve().parents[2], capture_output=True, text=True)
    assert done.returncode == 3
    assert "peak summed PSS" in done.stdout
    assert done.stdout.strip().endswith("exit code 3")
