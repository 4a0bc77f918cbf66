"""Autocast reaches no op: what an op computes in is said by its inputs."""

import pytest
import torch

from wsolfast.testing import OP_CASES

# The first case whose inputs are neither empty nor special is the plainest way of calling each op.
PLAIN = [pytest.param(op, cases[0], id=op) for op, cases in OP_CASES.items()]


@pytest.mark.parametrize(("op", "case"), PLAIN)
def test_autocast_changes_nothing(op, case):
    overload = getattr(torch.ops.wsolfast, op).default
    inputs = case.make_inputs("cpu", torch.float32)
    expected = overload(*inputs)
    with torch.autocast("cpu", torch.bfloat16):
        actual = overload(*inputs)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
