"""Seeds every test and poisons the memory that wsolfast allocates without filling."""

import gc
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._device import _device_constructors

from wsolfast.types import Batch, TrainState

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not torch.cuda.is_available():
    # Read when a kernel is defined: Triton's kernels then run on CPU tensors, one program after the other.
    os.environ.setdefault("TRITON_INTERPRET", "1")

if "PYTEST_XDIST_WORKER" in os.environ:
    # Processes beside each other have a core each, and so have the commands that they start.
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"

# Cached before torch.empty is wrapped below, or "with torch.device(...)" would never recognise it.
_device_constructors()

REAL_DATA = Path(os.environ.get("WSOLFAST_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))


def pytest_collection_modifyitems(items):
    for item in items:
        # Their tests go to the device where there is one.
        if getattr(item.module, "DEVICE", "cpu") == "cuda":
            item.add_marker(pytest.mark.cuda)
        if item.get_closest_marker("cuda") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
        if item.get_closest_marker("realdata") and not REAL_DATA.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no real images at {REAL_DATA}; set WSOLFAST_REAL_DATA"))
    # Processes take file after file: the last ones to be taken are short, so that they end together.
    tests = Counter(item.path for item in items)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path not in slow, -tests[item.path], item.path))


def pytest_collection_finish():
    # What was imported stays: it need not be looked through for garbage again and again.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture
def real_data() -> Path:
    """Folder of the real images; tests that ask for it carry the ``realdata`` marker."""
    return REAL_DATA


@pytest.fixture
def wsolfast(monkeypatch, capsys, tmp_path):
    """Runs the command in this process, in an empty folder; returns (exit code, stdout, stderr)."""
    from wsolfast import cli

    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["wsolfast", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        told = capsys.readouterr()
        return exit_.value.code or 0, told.out, told.err

    return run


@pytest.fixture
def two_threads():
    """Kernels share their work as on a machine of one's own, though the tests do, too."""
    usual = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(usual)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True)
def _working_device(request):
    """End the process after a test that broke the device: every later one would fail, and xdist starts another."""
    yield
    if request.node.get_closest_marker("cuda") and torch.cuda.is_available():
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            sys.stderr.write(f"{request.node.nodeid} broke the device: {error}\n")
            os._exit(1)


@pytest.fixture(autouse=True)
def _poisoned_empty(monkeypatch):
    """Fill ``torch.empty`` and friends with NaN where wsolfast calls them: whoever reads unwritten memory fails."""
    for name in ("empty", "empty_like"):
        original = getattr(torch, name)

        def poisoned(*args, _original=original, **kwargs):
            tensor = _original(*args, **kwargs)
            caller = sys._getframe(1).f_globals.get("__name__", "")
            if caller.startswith("wsolfast") and tensor.is_floating_point() and tensor.device.type != "meta":
                tensor.fill_(float("nan"))
            return tensor

        monkeypatch.setattr(torch, name, poisoned)


@pytest.fixture
def batch():
    """Six images of five classes."""
    generator = torch.Generator().manual_seed(5)
    image = torch.randint(0, 256, (6, 3, 64, 64), dtype=torch.uint8, generator=generator)
    return Batch(image, torch.tensor([0, 1, 2, 3, 4, 0]), tuple("abcdef"))


@pytest.fixture
def state():
    return TrainState(epoch=0, epochs=1, step=0, steps=10)
