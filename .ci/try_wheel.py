"""Tries an installed wsolfast: kernels load, give what PyTorch gives, and a small training is evaluated."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import wsolfast
from wsolfast.bench.gpu_check.smoke import compare
from wsolfast.compat.wsolevaluation import compute_bboxes_from_scoremaps
from wsolfast.testing import OP_CASES

SMALL = ["stage.epochs=1", "stage.batch_size=8", "runtime.workers=0"]
SMALL.append("data.options={num_train=16,num_val=8,num_test=8,size=48}")


def command(*words: str) -> str:
    program = Path(sys.executable).with_name("wsolfast")
    return subprocess.run([program, *words], capture_output=True, text=True, check=True).stdout


assert Path(sys.prefix) in Path(wsolfast.__file__).parents, f"not the wheel's: {wsolfast.__file__}"
assert command("--version") == f"wsolfast {wsolfast.__version__}\n"
doctor = json.loads(command("doctor", "--json"))
assert doctor["compiled_kernels"] == "loaded", doctor["compiled_kernels"]
assert doctor["box_engine"].startswith("compiler "), doctor["box_engine"]
for op, cases in OP_CASES.items():
    compare(op, cases[0], "cpu")
# Torch's engine and the one without torch find the same boxes.
score_map, thresholds = torch.rand(7, 7).double(), np.arange(0, 1, 0.01)
rule = wsolfast.ops.BoxRule(interpolation="none", normalization="none")
boxes, _ = compute_bboxes_from_scoremaps(score_map.numpy(), list(thresholds))
found = wsolfast.ops.score_map_boxes(score_map[None], torch.from_numpy(thresholds), rule)
assert np.array_equal(np.concatenate(boxes), found.boxes[0].numpy())
command("train", "demo/cam", *SMALL, "--name", "small", "--quiet")
command("eval", "runs/small", "--quiet")
print(
    f"Python {platform.python_version()}, torch {torch.__version__}, NumPy {np.__version__}: wsolfast "
    f"{wsolfast.__version__}, {len(OP_CASES)} ops as their references, {len(thresholds)} cuts, train and eval ok"
)
