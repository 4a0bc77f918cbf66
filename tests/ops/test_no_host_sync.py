"""No public op reads a value of a CUDA tensor on the host: on tensors without values every call goes through.

What the launchers do is compiled on meta tensors (tests/kernels/test_resources.py), which have none either; the kernels
of csrc/cuda are captured in graphs where there is a device (tests/test_registration.py).
"""

import re
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from wsolfast import ops
from wsolfast.ops import BoxRule, _cuda_attention

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


CALLS = {
    "box_sweep_hits": lambda: hits(BoxRule()),
    "box_sweep_hits_without_quantising": lambda: hits(BoxRule(quantize=False)),
    "box_sweep_hits_of_raw_maps": lambda: hits(BoxRule(), (30, 20)),
    "box_sweep_hits_of_maps_that_stay_as_they_are": lambda: hits(BoxRule(normalization="none"), (9, 8)),
    "class_head_pool": lambda: ops.class_head_pool(rand(2, 4, 3, 3), rand(5, 4), rand(5)),
    "co_supervised_loss": lambda: ops.co_supervised_loss(rand(4, 3, 8), label(4)),
    "confidence_mask": lambda: ops.confidence_mask(rand(2, 3, 3)),
    "confident_segmentation_loss": lambda: ops.confident_segmentation_loss(rand(2, 3, 3), rand(2, 3, 3)),
    "context_pool_update": lambda: ops.context_pool_update(rand(5, 3, 3), label(2), rand(2, 3, 3)),
    "gaussian_prior_labels": lambda: ops.gaussian_prior_labels(rand(2, 9, 8)),
    "gaussian_prior_labels_per_contour": lambda: ops.gaussian_prior_labels(rand(2, 9, 8), prior="released"),
    "min_max_normalize": lambda: ops.min_max_normalize(rand(2, 3, 3)),
    "multiplicative_fusion": lambda: ops.multiplicative_fusion([rand(2, 4, 8, 8), rand(2, 4, 4, 4)]),
    "non_local_attention": lambda: ops.non_local_attention(*(rand(2, 8, 4, 4) for _ in range(3))),
    "normalize_score_map": lambda: ops.normalize_score_map(rand(2, 3, 3), (9, 9), BoxRule()),
    "pixel_histogram": lambda: ops.pixel_histogram(
        rand(2, 3, 3), rand(2, 3, 3, dtype=torch.uint8), rand(6, dtype=torch.float64)
    ),
    "restricted_activation_loss": lambda: ops.restricted_activation_loss(rand(2, 5, 3, 3), label(2)),
    "score_map_boxes": lambda: boxes(BoxRule()),
    "score_map_boxes_of_raw_maps": lambda: boxes(BoxRule(), (30, 20)),
    "score_map_boxes_without_quantising": lambda: boxes(BoxRule(quantize=False, mean_cut=True)),
    "self_correlation_map": lambda: ops.self_correlation_map(rand(2, 4, 3, 3), rand(2, 1, 3, 3)),
}


@pytest.fixture
def no_values(monkeypatch):
    monkeypatch.setattr(_cuda_attention, "capability", lambda device: (9, 0))
    with FakeTensorMode():
        yield


def test_every_public_op_is_called():
    functions = {name for name in ops.__all__ if callable(getattr(ops, name)) and name.islower()}
    called = {name for name in functions if any(call.startswith(name) for call in CALLS)}
    # The round trip is composed of PyTorch's operators; the others take no tensors.
    assert functions - called == {"backends", "extension_status", "references", "resize_roundtrip"}


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
