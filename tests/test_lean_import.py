import subprocess
import sys

PROBE = """
import sys
import wsolfast
import wsolfast.metrics
import torch
heavy = [name for name in ("torchvision", "timm", "torchmetrics", "triton", "cv2", "matplotlib") if name in sys.modules]
assert not heavy, heavy
assert not torch.cuda.is_initialized()
"""


# What evaluates a network of ours, or complains, needs none of what compiles networks.
ENGINE = """
import sys
import wsolfast.engine.evaluation.evaluate
import wsolfast.engine.training.train
from wsolfast import backbones
backbones.build("small", layout="stride8")
heavy = [name for name in ("torch._dynamo", "onnx", "matplotlib") if name in sys.modules]
assert not heavy, heavy
"""


def test_import_needs_no_torchvision_no_triton_no_cuda_context():
    run(PROBE)


def test_the_engine_needs_no_compiler():
    run(ENGINE)


def run(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
