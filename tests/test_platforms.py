"""Systems that lack what Linux has: all that can be done without it is done, and the rest is one line."""

import subprocess
import sys

import numpy as np
import pytest

# Windows: no fcntl, no affinity, no fork. macOS lacks the affinity alone.
WINDOWS = """
import os, sys
import torch  # that of Linux knows no other system
sys.modules["fcntl"] = None
for name in ("sched_getaffinity", "sched_setaffinity", "register_at_fork", "fork"):
    delattr(os, name)
"""
MACOS = WINDOWS.replace('sys.modules["fcntl"] = None', "").replace(', "register_at_fork", "fork"', "")

EVERYTHING = """
import importlib, pkgutil
import wsolfast
for module in pkgutil.walk_packages(wsolfast.__path__, "wsolfast."):
    skipped = ("wsolfast.kernels", "wsolfast.testing", "wsolfast.bench", "wsolfast._C")
    if not (module.name.startswith(skipped) or module.name.endswith("__main__")):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            assert "fcntl" not in str(error), (module.name, error)
"""
OPS_AND_METRICS = """
import torch
from wsolfast import ops
from wsolfast.metrics import BoxAccuracy, get_protocol
maps = torch.rand(2, 7, 7)
assert ops.min_max_normalize(maps).shape == maps.shape
accuracy = BoxAccuracy(get_protocol("wsolevaluation"))
accuracy.update(maps, torch.tensor([[40, 30]] * 2), [torch.tensor([[2.0, 3.0, 20.0, 25.0]])] * 2)
assert accuracy.compute()["images"] == 2
"""
COMMAND = "import sys\nsys.argv = ['wsolfast', *{words!r}]\nfrom wsolfast.cli import main\nmain()\n"


def run(program, folder, **options):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False, **options
    )


@pytest.mark.parametrize("system", [WINDOWS, MACOS], ids=["windows", "macos"])
@pytest.mark.parametrize("program", [EVERYTHING, OPS_AND_METRICS], ids=["imports", "ops and metrics"])
def test_imports_ops_and_metrics_need_nothing_of_it(tmp_path, system, program):
    done = run(system + program, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def maps(tmp_path):
    """One image's score map and metadata."""
    folder = tmp_path / "metadata" / "CUB" / "test"
    folder.mkdir(parents=True)
    (folder / "image_ids.txt").write_text("a.jpg\n")
    (folder / "class_labels.txt").write_text("a.jpg,0\n")
    (folder / "image_sizes.txt").write_text("a.jpg,40,30\n")
    (folder / "localization.txt").write_text("a.jpg,5,5,30,25\n")
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "a.jpg.npy", np.random.default_rng(0).random((7, 7)))
    return ["eval-maps", "maps", "--metadata", "metadata", "--dataset", "CUB"]


@pytest.mark.parametrize("system", [WINDOWS, MACOS], ids=["windows", "macos"])
def test_score_maps_are_measured_all_the_same(tmp_path, maps, system):
    for _ in range(2):
        done = run(system + COMMAND.format(words=maps), tmp_path)
        assert done.returncode == 0, done.stderr
        assert "GT-known Loc" in done.stdout


def test_a_run_without_file_locks_is_refused_in_one_line(tmp_path):
    words = ["train", "demo/cam", "stage.epochs=1", "runtime.workers=0"]
    done = run(WINDOWS + COMMAND.format(words=words), tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (4, 1), done.stderr
    assert "error: this system has no file locks (Python's fcntl): runs, the image cache" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_run_needs_no_affinity(tmp_path):
    options = "data.options={num_train=8, num_val=4, num_test=8, size=48}"
    words = ["train", "demo/cam", "stage.epochs=1", "stage.batch_size=4", "runtime.workers=-1", options]
    for command in (words, ["eval", "runs/demo-cam"]):
        done = run(MACOS + COMMAND.format(words=command), tmp_path)
        assert done.returncode == 0, done.stderr
