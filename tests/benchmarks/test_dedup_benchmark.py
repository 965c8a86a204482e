import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks/dedup.py"


def test_both_sides_find_the_same_and_memory_is_printed():
    command = [sys.executable, str(SCRIPT), "dense", "--rows", "600", "--dim", "32", "--rounds", "1"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "plain is" in out
    assert out.count("0 duplicates") == 2
    command = [sys.executable, str(SCRIPT), "grow", "--grow", "500"]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "beside the mapped file" in out
