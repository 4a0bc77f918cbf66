"""No public op reads a value of a CUDA tensor on the host: on tensors without values every call goes through.

What the launchers do is compiled on meta tensors (tests/kernels/test_resources.py), which have none either; the kernels
of csrc/cuda are captured in graphs where there is a device (tests/test_registration.py).
"""

import re
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._pytree import tree_map_only

from wsolfast import ops
from wsolfast.ops import BoxRule, _cuda_attention
from wsolfast.testing import OP_CALLS

CSRC = Path(__file__).parents[2] / "csrc"


def rand(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="cuda")


def label(count):
    return torch.empty(count, dtype=torch.int64, device="cuda")


def boxes(rule, size=None):
    return ops.score_map_boxes(rand(3, 9, 8), rand(7, dtype=torch.float64), rule, size=size)


def hits(rule, size=None):
    thresholds, levels, truths = (rand(*shape, dtype=torch.float64) for shape in ((7,), (2,), (4, 4)))
    return ops.box_sweep_hits(rand(3, 9, 8), thresholds, truths, label(4), levels, rule, size=size)


def call(op):
    return getattr(ops, op)(
        **tree_map_only(torch.Tensor, lambda like: rand(*like.shape, dtype=like.dtype), OP_CALLS[op])
    )


CALLS = {op: partial(call, op) for op in OP_CALLS} | {
    "box_sweep_hits_of_ready_maps": lambda: hits(BoxRule()),
    "box_sweep_hits_without_quantising": lambda: hits(BoxRule(quantize=False)),
    "box_sweep_hits_of_raw_maps": lambda: hits(BoxRule(), (30, 20)),
    "box_sweep_hits_of_maps_that_stay_as_they_are": lambda: hits(BoxRule(normalization="none"), (9, 8)),
    "gaussian_prior_labels_per_contour": lambda: ops.gaussian_prior_labels(rand(2, 9, 8), prior="released"),
    "multiplicative_fusion_of_features": lambda: ops.multiplicative_fusion([rand(2, 4, 8, 8), rand(2, 4, 4, 4)]),
    "score_map_boxes_of_ready_maps": lambda: boxes(BoxRule()),
    "score_map_boxes_of_raw_maps": lambda: boxes(BoxRule(), (30, 20)),
    "score_map_boxes_without_quantising": lambda: boxes(BoxRule(quantize=False, mean_cut=True)),
    "self_correlation_map_of_one_layer": lambda: ops.self_correlation_map(rand(2, 4, 3, 3), rand(2, 1, 3, 3)),
}


@pytest.fixture
def no_values(monkeypatch):
    monkeypatch.setattr(_cuda_attention, "capability", lambda device: (9, 0))
    with FakeTensorMode():
        yield


@pytest.mark.parametrize("call", CALLS)
def test_no_value_is_read(no_values, call):
    if call.startswith("gaussian_prior_labels") and ops.backends()["gaussian_prior_labels"]["cuda"] != "csrc":
        pytest.skip(reason="the labels are made on the host: no CUDA kernel is compiled in")
    found = CALLS[call]()
    found = getattr(found, "boxes", found)
    assert all(output.is_cuda for output in (found if isinstance(found, tuple) else (found,)))


def test_reading_a_value_is_seen(no_values):
    with pytest.raises(DataDependentOutputException):
        bool(rand(1).sum() > 0)


def test_only_the_list_of_all_boxes_waits_for_the_device():
    waiting = re.compile(r"cuda\w*(?:Synchronize|Memcpy|Malloc|Memset)\w*|\w+\.wait_for")
    found = {path.name: set(waiting.findall(path.read_text())) for path in sorted((CSRC / "cuda").iterdir())}
    assert {name: calls for name, calls in found.items() if calls} == {
        "launch.h": {"cudaMemcpyAsync", "cudaMemcpyDeviceToHost", "cudaStreamSynchronize"},
        "box_pipeline.cu": {"launch.wait_for"},
    }
