import math

import pytest
import torch

from wsolfast import ops
from wsolfast.reference import multiplicative_fusion as reference
from wsolfast.testing import OP_CASES, assert_close, seeded, with_gradients

ODD = ((5, 7), (3, 4), (2, 3))


def branches(sizes=ODD, n=2, channels=3, dtype=torch.float64):
    return [seeded((n, channels, *size), dtype=dtype, seed=i) for i, size in enumerate(sizes)]


def sources(target, size, target_size, align_corners):
    """The two source positions of a target position and the weight of the second."""
    if align_corners:
        place = target * (size - 1) / (target_size - 1) if target_size > 1 else 0.0
    else:
        place = max(0.0, (target + 0.5) * size / target_size - 0.5)
    before = min(math.floor(place), size - 1)
    return before, min(before + 1, size - 1), place - before


def by_loop(features, align_corners=True, mode="multiply"):
    first = features[0]
    out = torch.empty_like(first)
    for n, c, y, x in torch.cartesian_prod(*map(torch.arange, first.shape)).tolist():
        values = []
        for branch in features:
            y0, y1, dy = sources(y, branch.shape[2], first.shape[2], align_corners)
            x0, x1, dx = sources(x, branch.shape[3], first.shape[3], align_corners)
            plane = branch[n, c]
            top = (1 - dx) * plane[y0, x0] + dx * plane[y0, x1]
            bottom = (1 - dx) * plane[y1, x0] + dx * plane[y1, x1]
            values.append(float((1 - dy) * top + dy * bottom))
        out[n, c, y, x] = math.prod(values) if mode == "multiply" else sum(values)
    return out


@pytest.mark.parametrize("mode", ["multiply", "add"])
@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("sizes", [ODD, ((4, 4), (2, 2)), ((3, 3), (1, 1), (3, 3), (2, 1))])
def test_reference_and_op_agree_with_a_loop(sizes, align_corners, mode):
    features = branches(sizes)
    expected = by_loop(features, align_corners, mode)
    assert_close(reference.multiplicative_fusion(features, None, None, False, align_corners, "map", mode), expected)
    assert_close(ops.multiplicative_fusion(features, align_corners=align_corners, mode=mode), expected)
    mean = ops.multiplicative_fusion(features, align_corners=align_corners, mode=mode, reduce="mean")
    assert_close(mean, expected.mean((2, 3)))


@pytest.mark.parametrize("of_image", [False, True], ids=["shared", "of_each_image"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
def test_activation_of_the_branches_agrees_with_a_loop(layout, of_image):
    features = [x.to(memory_format=layout) for x in branches(channels=19)]
    scale, shift = (seeded((3, 2, 19) if of_image else (3, 19), dtype=torch.float64, seed=s) for s in (7, 8))
    activated = [torch.empty_like(x) for x in features]
    for b, (branch, changed) in enumerate(zip(features, activated, strict=True)):
        for n, c, y, x in torch.cartesian_prod(*map(torch.arange, branch.shape)).tolist():
            a, s = (vectors[b, n, c] if of_image else vectors[b, c] for vectors in (scale, shift))
            changed[n, c, y, x] = max(0.0, float(a * branch[n, c, y, x] + s))
    expected = by_loop(activated)
    given = {"scale": scale, "shift": shift, "relu": True}
    assert_close(ops.multiplicative_fusion(features, **given), expected)
    assert_close(ops.multiplicative_fusion(features, reduce="mean", **given), expected.mean((2, 3)))
    assert_close(reference.multiplicative_fusion(features, scale, shift, True, True, "map", "multiply"), expected)


def test_each_part_of_the_activation_may_be_missing():
    features = branches()
    scale, shift = (seeded((3, 3), dtype=torch.float64, seed=s) for s in (7, 8))
    scaled = [x * a[:, None, None] for x, a in zip(features, scale, strict=True)]
    assert_close(ops.multiplicative_fusion(features, scale=scale), ops.multiplicative_fusion(scaled))
    shifted = [x + b[:, None, None] for x, b in zip(features, shift, strict=True)]
    assert_close(ops.multiplicative_fusion(features, shift=shift), ops.multiplicative_fusion(shifted))
    rectified = [x.relu() for x in features]
    assert torch.equal(ops.multiplicative_fusion(features, relu=True), ops.multiplicative_fusion(rectified))


def test_a_float32_batch_norm_folds_into_half_precision():
    features = [x.half() for x in branches(dtype=torch.float32)]
    scale = seeded((3, 3), seed=7)
    out = ops.multiplicative_fusion(features, scale=scale, relu=True)
    wide = ops.multiplicative_fusion([x.float() for x in features], scale=scale.double(), relu=True)
    assert torch.equal(out, wide.half())


def through_the_reference(inputs):
    """(output, gradients of the tensors) for a gradient that depends on the output's shape only."""
    given, tensors = with_gradients(inputs)
    out = reference.multiplicative_fusion(*given)
    grad = seeded(out.shape, dtype=torch.float64, seed=7)
    return out, grad, torch.autograd.grad(out, tensors, grad, materialize_grads=True)


WITHOUT_NAN = [case for case in OP_CASES["multiplicative_fusion"] if "nan" not in case.name]


@pytest.mark.parametrize("case", WITHOUT_NAN, ids=lambda case: case.name)
def test_gradients_agree_with_autograd_through_the_reference(case):
    inputs = case.make_inputs("cpu", torch.float64)
    _, grad, expected = through_the_reference(inputs)
    given, tensors = with_gradients(inputs)
    found = torch.autograd.grad(torch.ops.wsolfast.multiplicative_fusion.default(*given), tensors, grad)
    for actual, wanted in zip(found, expected, strict=True):
        assert_close(actual, wanted)


@pytest.mark.parametrize("case", WITHOUT_NAN, ids=lambda case: case.name)
def test_backward_agrees_with_autograd_through_the_reference(case):
    features, _, _, _, *options = case.make_inputs("cpu", torch.float64)
    inputs = (features, None, None, False, *options)
    _, grad, expected = through_the_reference(inputs)
    for backward in (
        reference.multiplicative_fusion_backward,
        torch.ops.wsolfast._multiplicative_fusion_backward.default,
    ):
        found = backward(grad, features, *options)
        for actual, wanted in zip(found, expected, strict=True):
            assert_close(actual, wanted)


def test_outputs_have_the_layout_of_the_first_branch():
    first, *others = branches()
    for finest, layout in ((first, torch.contiguous_format), (first, torch.channels_last)):
        features = [finest.to(memory_format=layout), *others]
        for x in features:
            x.requires_grad_()
        out = ops.multiplicative_fusion(features)
        assert out.is_contiguous(memory_format=layout)
        assert all(g.is_contiguous(memory_format=layout) for g in torch.autograd.grad(out.sum(), features))


@pytest.mark.skipif(ops.extension_status() is not None, reason="library calls choose the order by the layout")
def test_layouts_agree_bit_by_bit():
    """Both of the CPU's tilings spell out one order of sums; the pixels of a mean are summed in it too."""
    features = branches(channels=37, dtype=torch.float32)
    last = [x.to(memory_format=torch.channels_last) for x in features]
    scale = seeded((3, 37), seed=7)
    for options in ({}, {"scale": scale, "shift": scale, "relu": True}, {"reduce": "mean"}):
        assert torch.equal(ops.multiplicative_fusion(features, **options), ops.multiplicative_fusion(last, **options))
    for actual, expected in zip(gradients_of(last), gradients_of(features), strict=True):
        assert torch.equal(actual, expected)


def gradients_of(features):
    features = [x.detach().requires_grad_() for x in features]
    return torch.autograd.grad(ops.multiplicative_fusion(features, reduce="mean").sum(), features)


def test_upsampling_is_the_matrix_of_the_specification():
    """A[i, floor t] = 1 - frac t, A[i, floor t + 1] += frac t with t = i (n - 1) / (m - 1); U = A R A^T."""
    m, n = 28, 7
    matrix = torch.zeros(m, n, dtype=torch.float64)
    for i in range(m):
        t = i * (n - 1) / (m - 1)
        matrix[i, math.floor(t)] = 1 - (t - math.floor(t))
        matrix[i, min(math.floor(t) + 1, n - 1)] += t - math.floor(t)
    deep = seeded((1, 2, n, n), dtype=torch.float64).requires_grad_()
    out = ops.multiplicative_fusion([torch.ones(1, 2, m, m, dtype=torch.float64), deep])
    assert_close(out, matrix @ deep @ matrix.mT)
    grad = seeded(out.shape, dtype=torch.float64, seed=1)
    assert_close(torch.autograd.grad(out, deep, grad)[0], matrix.mT @ grad @ matrix)


def test_branches_of_the_first_size_are_taken_as_they_are():
    features = branches(((5, 3),) * 3, dtype=torch.float32)
    assert torch.equal(ops.multiplicative_fusion(features), features[0] * features[1] * features[2])
    assert torch.equal(ops.multiplicative_fusion(features, mode="add"), features[0] + features[1] + features[2])


def test_only_the_arguments_are_saved():
    features, scale = [x.requires_grad_() for x in branches()], seeded((3, 3), dtype=torch.float64)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        ops.multiplicative_fusion(features, scale=scale, relu=True)
    assert [x.data_ptr() for x in kept] == [x.data_ptr() for x in (*features, scale)]


def test_a_constant_branch_scales_the_product():
    first, second, _ = branches()
    third = torch.full((2, 3, 2, 2), 3.0, dtype=torch.float64)
    assert_close(ops.multiplicative_fusion([first, second, third]), 3 * ops.multiplicative_fusion([first, second]))


def test_flips_commute():
    features = branches()
    for axis in (2, 3):
        flipped = ops.multiplicative_fusion([x.flip(axis) for x in features])
        assert_close(flipped.flip(axis), ops.multiplicative_fusion(features))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    """The product of the first two overflows float16; times the third it fits again."""
    features = [torch.full((1, 1, 2, 2), value).to(dtype) for value in (300.0, 300.0, 1e-2)]
    out = ops.multiplicative_fusion(features)
    assert out.dtype == dtype
    assert torch.equal(out, ops.multiplicative_fusion([x.float() for x in features]).to(dtype))
    assert out.isfinite().all()


def test_gradient_is_the_same_every_time():
    features = [x.requires_grad_() for x in branches(((28, 28), (14, 14), (7, 7)), dtype=torch.float32)]
    grads = [torch.autograd.grad(ops.multiplicative_fusion(features, reduce="mean").sum(), features) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("features", "options", "message"),
    [
        ([torch.zeros(1, 1, 2, 2)], {}, "2 to 4 branches, got 1"),
        ([torch.zeros(1, 1, 2, 2)] * 5, {}, "2 to 4 branches, got 5"),
        ([torch.zeros(1, 2, 2)] * 2, {}, r"shape \[N, C, h, w\] with h, w > 0, got torch.float32 \[1, 2, 2\]"),
        ([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 0, 2)], {}, "for branch 1"),
        ([torch.zeros(1, 1, 2, 2).long()] * 2, {}, "floating-point"),
        ([torch.zeros(1, 1, 2, 2), torch.zeros(1, 2, 2, 2)], {}, "N, C and dtype must agree"),
        ([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).double()], {}, "N, C and dtype must agree"),
        ([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 3)], {}, "put the finest branch first"),
        ([torch.zeros(1, 3, 2, 2)] * 2, {"scale": torch.zeros(2, 1)}, r"scale of shape \[2, 3\] or \[2, 1, 3\], got"),
        ([torch.zeros(1, 3, 2, 2)] * 2, {"shift": torch.zeros(3, 3)}, r"shift of shape .*, got torch.float32 \[3, 3\]"),
        ([torch.zeros(1, 1, 2, 2)] * 2, {"shift": torch.zeros(2, 1).long()}, "floating-point shift .* got torch.int64"),
        ([torch.zeros(1, 1, 2, 2)] * 2, {"mode": "concat"}, r"mode in \('multiply', 'add'\), got 'concat'"),
        ([torch.zeros(1, 1, 2, 2)] * 2, {"reduce": "sum"}, r"reduce in \('map', 'mean'\), got 'sum'"),
    ],
)
def test_bad_input_is_named(features, options, message):
    with pytest.raises(ValueError, match=message):
        ops.multiplicative_fusion(features, **options)
