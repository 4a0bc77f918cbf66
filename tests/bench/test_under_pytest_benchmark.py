"""The benches' cases under pytest-benchmark, each called once."""

import subprocess
import sys
from pathlib import Path

import pytest

from wsolfast import ops

BENCH = Path(__file__).parents[2] / "bench"


@pytest.mark.skipif(ops.extension_status() is not None, reason="nothing but the references to time")
def test_every_file_runs():
    files = sorted(map(str, BENCH.glob("test_*.py")))
    assert len(files) == 4
    # Ours at most sizes; the peers, and who trains, stand in tests of their own.
    chosen = "not layer1 and not reference and not published and not train"
    command = [sys.executable, "-m", "pytest", "-q", "--benchmark-disable", "-k", chosen, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
