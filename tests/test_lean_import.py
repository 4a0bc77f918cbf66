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


# A whole job, by either optimizer, on a network of ours. Each module would take it seconds.
JOB = """
import sys
from wsolfast import cli

def wsolfast(*words):
    sys.argv = ["wsolfast", *words]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, words

data = [f"data.options.{key}={value}" for key, value in dict(size=48, num_train=8, num_val=4, num_test=8).items()]
tiny = ["data.resize=32", "stage.epochs=1", "stage.batch_size=4", "runtime.workers=0", *data]
for optimizer in ("sgd", "adam"):
    wsolfast("train", "demo/cam", f"stage.optim.name={optimizer}", *tiny, "--name", optimizer)
    wsolfast("eval", f"runs/{optimizer}")
wsolfast("report", "runs/sgd", "runs/adam", "--out", "report.html")
heavy = [name for name in ("sympy", "torch._dynamo", "torch._inductor", "onnx", "matplotlib") if name in sys.modules]
assert not heavy, heavy
"""


def test_import_needs_no_torchvision_no_triton_no_cuda_context():
    run(PROBE)


def test_training_evaluation_and_report_need_no_compiler(tmp_path):
    run(JOB, cwd=tmp_path)
    assert (tmp_path / "report.html").exists()


def run(program, **options):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
