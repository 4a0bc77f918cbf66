"""Offsets of 64 bits: images that lie more than 2^31 values apart, in memory of which only their pages exist."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from wsolfast.kernels import (
    class_head_pool,
    co_supervised_loss,
    confident_segmentation_loss,
    multiplicative_fusion,
    non_local_attention,
    restricted_activation_loss,
    self_correlation_map,
)

from wsolfast.testing import OP_CASES, assert_close, seeded

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# A stride fits 32 bits, its product with the last image's number does not.
GAP = 1 << 30
IMAGES = 4


@pytest.fixture
def apart(tmp_path):
    """Copies of tensors [4, ...] whose images lie GAP values apart."""
    kept = []

    def move(tensor):
        assert len(tensor) == IMAGES
        values, begin = GAP * (IMAGES - 1) + tensor[0].numel(), 0
        if DEVICE == "cuda":
            memory = torch.empty(values, dtype=tensor.dtype, device=DEVICE)
        else:
            # A file with holes, of which what is not written takes no room. An offset that has wrapped finds zeros.
            path, begin = tmp_path / f"{len(kept)}.bin", 1 << 31
            with path.open("wb") as file:
                file.truncate((begin + values) * tensor.element_size())
            memory = torch.from_file(str(path), shared=True, size=begin + values, dtype=tensor.dtype)
        kept.append(memory)
        inner = tensor.contiguous().stride()[1:]
        return memory.as_strided(tensor.shape, (GAP, *inner), begin).copy_(tensor)

    yield move
    kept.clear()


def agree(one, other):
    """Another stride may mean another layout in registers, and so another order of a sum."""
    one, other = (x if isinstance(x, tuple | list) else (x,) for x in (one, other))
    for a, b in zip(one, other, strict=True):
        assert_close(a, b)


def maps(*shape, seed=0):
    return seeded((IMAGES, *shape), DEVICE, torch.float16, seed)


def test_the_memory_is_as_large_as_it_says(apart):
    far = apart(maps(2, 3, 3))
    assert far.stride(0) * (IMAGES - 1) > 2**31
    assert torch.equal(far, maps(2, 3, 3))


def test_class_head_pool(apart):
    features, weight = maps(4, 3, 3), maps(4)
    given = weight, None, True
    expected = class_head_pool.class_head_pool(features, *given)
    agree(class_head_pool.class_head_pool(apart(features), *given), expected)
    grad = seeded(expected.shape, DEVICE, torch.float16)
    agree(
        class_head_pool.class_head_pool_backward(grad, apart(features), *given),
        class_head_pool.class_head_pool_backward(grad, features, *given),
    )


def test_multiplicative_fusion(apart, monkeypatch):
    monkeypatch.setattr(multiplicative_fusion, "_ENOUGH_PROGRAMS", 1)
    branches = maps(2, 4, 4), maps(2, 2, 2, seed=1)
    far = [apart(branch) for branch in branches]
    options = (True, "map", "multiply")
    agree(
        multiplicative_fusion.multiplicative_fusion(far, None, None, False, *options),
        multiplicative_fusion.multiplicative_fusion(branches, None, None, False, *options),
    )
    grad = maps(2, 4, 4, seed=2)
    agree(
        multiplicative_fusion.multiplicative_fusion_backward(apart(grad), far, *options),
        multiplicative_fusion.multiplicative_fusion_backward(grad, branches, *options),
    )


def test_non_local_attention(apart):
    query, key, value, grad = maps(2, 6), maps(2, 5, seed=1), maps(3, 5, seed=2), maps(3, 6, seed=3)
    out, gradients = torch.empty_like(grad), [torch.empty_like(x) for x in (query, key, value)]
    far_out, far_gradients = apart(torch.empty_like(grad)), [apart(torch.empty_like(x)) for x in (query, key, value)]
    non_local_attention.forward(query, key, value, out)
    non_local_attention.backward(grad, query, key, value, *gradients)
    far = [apart(x) for x in (query, key, value)]
    non_local_attention.forward(*far, far_out)
    non_local_attention.backward(apart(grad), *far, *far_gradients)
    agree((far_out, *far_gradients), (out, *gradients))


def test_restricted_activation_loss(apart):
    class_maps, label = maps(3, 4, 4).float(), torch.arange(IMAGES, device=DEVICE) % 3
    options = label, 0.1, 0.2, "var", "minmax"
    agree(
        restricted_activation_loss.restricted_activation_loss(apart(class_maps), *options),
        restricted_activation_loss.restricted_activation_loss(class_maps, *options),
    )


def test_confident_segmentation_loss(apart):
    late, early = maps(4, 4), maps(4, 4, seed=1)
    agree(
        confident_segmentation_loss.confident_segmentation_loss(apart(late), apart(early), 0.5),
        confident_segmentation_loss.confident_segmentation_loss(late, early, 0.5),
    )


def test_co_supervised_loss(apart):
    vectors, label = maps(3, 6).float(), torch.arange(IMAGES, device=DEVICE) % 2
    options = label, 1.0, 1.0, 1e-6, "mean"
    expected = co_supervised_loss.co_supervised_loss(vectors, *options)
    agree(co_supervised_loss.co_supervised_loss(apart(vectors), *options), expected)
    grad = torch.tensor(1.0, device=DEVICE)
    agree(
        co_supervised_loss.co_supervised_loss_backward(grad, apart(vectors), *expected[1:]),
        co_supervised_loss.co_supervised_loss_backward(grad, vectors, *expected[1:]),
    )


@pytest.mark.parametrize("variant", ["head", "paper"])
def test_self_correlation_map(apart, variant):
    name = next(case for case in OP_CASES["self_correlation_map"] if case.name.startswith(variant))
    *_, post, eps, _ = options = name.make_inputs("cpu", torch.float32)[2:]
    assert post in ("released", "paper")
    assert eps >= 0
    features, cam = maps(5, 4, 3), maps(1, 4, 3, seed=1).float().sigmoid()
    given = *options[:-1], "strict"
    agree(
        self_correlation_map.self_correlation_map([apart(features)], cam, *given),
        self_correlation_map.self_correlation_map([features], cam, *given),
    )
