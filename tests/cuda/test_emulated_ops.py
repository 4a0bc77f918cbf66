"""Every op of csrc/cuda gives the CPU kernel's bits on its cases."""

import pytest
import torch
from cuda_emulated import KERNELS, same_bits

from wsolfast import ops
from wsolfast.testing import OP_CASES

pytestmark = pytest.mark.skipif(ops.extension_status() is not None, reason=f"CPU kernels: {ops.extension_status()}")
# A binding has the name of its op.
OPS = sorted(path.stem for path in KERNELS.glob("*.cpp"))


@pytest.mark.parametrize(
    ("op", "case"), [pytest.param(op, case, id=f"{op}-{case.name}") for op in OPS for case in OP_CASES[op]]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
def test_kernels_give_the_bits_of_the_cpu(emulated, op, case, dtype):
    inputs = case.make_inputs("cpu", dtype)
    assert same_bits(getattr(emulated, op)(*inputs), getattr(torch.ops.wsolfast, op)(*inputs))
