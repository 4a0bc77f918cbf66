"""A test that breaks the device ends its process, which xdist replaces; a later one would fail without a fault."""

import subprocess
import sys
from pathlib import Path

CONFTEST = Path(__file__).parents[1] / "conftest.py"
PRETENDED = f"""
import torch

def broken():
    raise RuntimeError("an illegal memory access was encountered")

torch.cuda.is_available = lambda: True
torch.cuda.synchronize = broken
exec(compile(open({str(CONFTEST)!r}).read(), {str(CONFTEST)!r}, "exec"))
"""
TESTS = """
import pytest

def test_on_the_cpu():
    pass

@pytest.mark.cuda
def test_on_the_device():
    pass

@pytest.mark.cuda
def test_afterwards():
    pass
"""


def test_a_broken_device_ends_the_process(tmp_path):
    (tmp_path / "conftest.py").write_text(PRETENDED)
    (tmp_path / "test_it.py").write_text(TESTS)
    words = ["-m", "pytest", "-v", "-p", "no:cacheprovider", "-s", "-o", "markers=cuda", "test_it.py"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "test_it.py::test_on_the_cpu PASSED" in done.stdout
    assert "test_on_the_device broke the device: an illegal memory access was encountered" in done.stderr
    assert "test_afterwards" not in done.stdout
