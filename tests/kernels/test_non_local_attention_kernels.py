"""The Triton kernels of ``non_local_attention`` agree with the reference; interpreted where there is no GPU."""

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from static_evidence import compiled, launches
from wsolfast.kernels import non_local_attention as kernels

from wsolfast.reference import non_local_attention as reference
from wsolfast.testing import OP_CASES, assert_close, seeded, tolerance_on

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
CASES = [
    case
    for case in OP_CASES["non_local_attention"]
    if "dot" not in case.name and "empty" not in case.name and "nan" not in case.name
]
WITH_NAN = [case for case in OP_CASES["non_local_attention"] if case.name in ("nan_key", "nan_query_and_value")]


def forward(inputs):
    query, key, value = (x.to(DEVICE).flatten(2) for x in inputs)
    out = torch.full((value.shape[0], value.shape[1], query.shape[2]), torch.nan, dtype=query.dtype, device=DEVICE)
    kernels.forward(query, key, value, out)
    return out.unflatten(2, inputs[0].shape[2:]).cpu()


def backward(grad, inputs):
    gradients = [torch.full_like(x, torch.nan, device=DEVICE, memory_format=torch.contiguous_format) for x in inputs]
    kernels.backward(*(x.to(DEVICE).flatten(2) for x in (grad, *inputs, *gradients)))
    return [gradient.cpu() for gradient in gradients]


def check(inputs, tolerance=None):
    tolerance = tolerance_on(DEVICE, "non_local_attention", inputs[0].dtype) if tolerance is None else tolerance
    expected = reference.non_local_attention(*inputs, "embedded_gaussian")
    assert_close(forward(inputs), expected, tolerance)
    grad = seeded(expected.shape, seed=3)
    wanted = reference.non_local_attention_backward(grad, *inputs, "embedded_gaussian")
    for actual, gradient in zip(backward(grad, inputs), wanted, strict=True):
        # A gradient sums terms as large as the inputs, and they may cancel.
        unit = max(1.0, *(x.abs().max().item() for x in (gradient, *inputs)))
        assert_close(actual / unit, gradient / unit, tolerance)


def maps(n, d, c, positions, keys, dtype=torch.float32):
    return (
        seeded((n, d, *positions), dtype=dtype),
        seeded((n, d, *keys), dtype=dtype, seed=1),
        seeded((n, c, *keys), dtype=dtype, seed=2),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case):
    *inputs, _ = case.make_inputs("cpu", torch.float32)
    check(inputs)


@pytest.mark.parametrize("case", WITH_NAN, ids=lambda case: case.name)
def test_a_nan_goes_where_the_reference_sends_it(case):
    *inputs, _ = case.make_inputs("cpu", torch.float32)
    assert_close(forward(inputs), reference.non_local_attention(*inputs, "embedded_gaussian"))


@pytest.mark.parametrize(
    ("channels", "positions", "keys"),
    [((16, 128), (9, 15), (9, 15)), ((20, 130), (11, 13), (7, 5)), ((64, 300), (1, 35), (10, 7))],
)
def test_several_tiles(channels, positions, keys):
    check(maps(1, *channels, positions, keys))


@pytest.mark.parametrize("sizes", [((3, 20), (3, 3), (5, 7)), ((20, 130), (1, 9), (6, 8))])
def test_one_tile_may_have_all_keys(sizes, monkeypatch):
    """As in half precision; float32 shows that nothing is lost."""
    monkeypatch.setattr(kernels, "_FULL", {most: plan._replace(whole=64) for most, plan in kernels._FULL.items()})
    channels, positions, keys = sizes
    check(maps(2, *channels, positions, keys))


def test_all_value_channels_may_stay_on_chip(monkeypatch):
    monkeypatch.setattr(kernels, "_FULL", {most: plan._replace(resident=64) for most, plan in kernels._FULL.items()})
    check(maps(1, 4, 40, (5, 8), (6, 7)))


def test_older_devices_have_tiles_of_their_own(monkeypatch):
    query = torch.empty(1, 16, 4, dtype=torch.half)
    assert kernels._tiles_of(query) is kernels._HALF[32]
    monkeypatch.setattr(kernels, "architecture", lambda query: 80)
    assert kernels._tiles_of(query) is kernels._HALF_IN_REGISTERS[32]
    assert kernels._tiles_of(query.float()) is kernels._FULL[32]


def test_gradients_that_one_number_stands_for():
    """As a sum gives them, without a stride."""
    inputs = maps(2, 4, 6, (4, 8), (4, 4))
    grad = torch.ones(()).expand(2, 6, 4, 8)
    wanted = reference.non_local_attention_backward(grad, *inputs, "embedded_gaussian")
    for actual, expected in zip(backward(grad, inputs), wanted, strict=True):
        assert_close(actual, expected)


def test_a_pass_is_one_launch_and_its_gradient_two():
    inputs = maps(1, 2, 3, (2, 2), (2, 2))
    with launches() as names:
        backward(forward(inputs), inputs)
    assert [name.removeprefix("non_local_attention_") for name in names] == [
        "fwd_kernel",
        "bwd_queries_kernel",
        "bwd_keys_kernel",
    ]


FORWARD, OF_QUERIES, OF_KEYS = (f"non_local_attention_{name}_kernel" for name in ("fwd", "bwd_queries", "bwd_keys"))


@pytest.mark.parametrize("build", ["14x14 64 512", "28x28 32 256", "56x56 64 512 nhwc"])
@pytest.mark.parametrize("kernel", [FORWARD, OF_QUERIES, OF_KEYS])
def test_half_precision_is_copied_ahead_and_multiplied_by_warp_groups(kernel, build):
    """Whatever the layout: 196 positions in rows are copied by eight bytes."""
    for row in compiled(kernel, build):
        if "float32" not in row.build:
            assert row.async_copies > 0, row
            assert row.tensor_core_instructions == row.wgmma_instructions > 0, row
            assert row.spilled_bytes == 0, row


@pytest.mark.parametrize("kernel", [OF_QUERIES, OF_KEYS])
def test_two_programs_of_wide_values_stand_on_a_multiprocessor(kernel):
    assert [row.ctas_per_multiprocessor for row in compiled(kernel, "56x56 64 512 nhwc bfloat16")] == [2]


def test_late_keys_may_have_the_highest_scores():
    query, key, value = maps(1, 4, 3, (2, 3), (10, 10))
    check((query, key * torch.linspace(0.1, 8, 100).view(10, 10), value))


def test_half_precision():
    inputs = [x.half() for x in maps(2, 8, 24, (5, 7), (5, 7))]
    wide = [x.float() for x in inputs]
    expected = reference.non_local_attention(*wide, "embedded_gaussian")
    actual = forward(inputs)
    assert actual.dtype == torch.float16
    assert_close(actual, expected)
    grad = seeded(expected.shape, seed=3).half()
    wanted = reference.non_local_attention_backward(grad.float(), *wide, "embedded_gaussian")
    for gradient, exact in zip(backward(grad, inputs), wanted, strict=True):
        assert_close(gradient, exact, 2e-3 * exact.abs().max().item())


def test_layouts_need_no_copy():
    """Slices of one channels-last projection, as the non-local block makes them."""
    projected = seeded((2, 12, 3, 5)).to(memory_format=torch.channels_last)
    inputs = projected.split((3, 3, 6), dim=1)
    assert all(x.flatten(2).data_ptr() == x.data_ptr() for x in inputs)
    check(inputs)


def test_float64_is_refused():
    with pytest.raises(TypeError, match="take float16, bfloat16, float32, got float64"):
        forward(maps(1, 2, 3, (2, 2), (2, 2), torch.float64))
