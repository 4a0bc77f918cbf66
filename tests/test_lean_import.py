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


def test_import_needs_no_torchvision_no_triton_no_cuda_context():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
