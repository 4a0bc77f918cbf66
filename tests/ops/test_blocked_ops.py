"""Ops in library calls on blocks: how large the blocks are changes nothing."""

import importlib

import pytest
import torch

from wsolfast.ops import _blocked_class_head, _chunked_attention
from wsolfast.testing import OP_CASES, assert_close, seeded

BLOCKED = {"class_head_pool": _blocked_class_head, "non_local_attention": _chunked_attention}
CASES = [
    pytest.param(op, case, id=f"{op}-{case.name}")
    for op in BLOCKED
    for case in OP_CASES[op]
    # Those are too large for blocks of a few values.
    if "blocks" not in case.name
]


@pytest.mark.parametrize("block", [1, 7, 12, 40, 10**6])
@pytest.mark.parametrize(("op", "case"), CASES)
def test_size_of_the_blocks_does_not_matter(op, case, block, monkeypatch):
    blocked, reference = BLOCKED[op], importlib.import_module(f"wsolfast.reference.{op}")
    monkeypatch.setattr(blocked, "_CPU_BLOCK", block)
    given = case.make_inputs("cpu", torch.float64)
    out = getattr(reference, op)(*given)
    assert_close(blocked.forward(*given), out)
    grad = seeded(out.shape, dtype=torch.float64, seed=3)
    expected = getattr(reference, f"{op}_backward")(grad, *given)
    for actual, wanted in zip(blocked.backward(grad, *given), expected, strict=True):
        assert_close(actual, wanted)
