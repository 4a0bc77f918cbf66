"""The route of each attention on CUDA, and every route on whatever device is there."""

import pytest
import torch

from wsolfast import ops
from wsolfast.ops import _chunked_attention, _cuda_attention
from wsolfast.ops._cuda_attention import cuda_route
from wsolfast.reference import non_local_attention as reference
from wsolfast.reference._layout import layout_of
from wsolfast.testing import assert_close, seeded, tolerance_on

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HALF, BRAIN, FULL, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
TURING, AMPERE, HOPPER = (7, 5), (8, 0), (9, 0)
BOTH, FLASH, NONE = ("cudnn", "flash"), ("flash",), ()


@pytest.mark.parametrize(
    ("dtype", "positions", "keys", "channels", "capability", "libraries", "route"),
    [
        (BRAIN, 3136, 3136, (16, 128), HOPPER, BOTH, "library"),
        (HALF, 3136, 784, (16, 128), AMPERE, BOTH, "library"),
        (HALF, 196, 196, (64, 128), HOPPER, BOTH, "library"),
        (BRAIN, 12544, 12544, (64, 64), HOPPER, FLASH, "library"),
        (BRAIN, 3136, 3136, (256, 256), HOPPER, BOTH, "library"),
        # cuDNN alone takes unequal widths; in deterministic mode neither library is asked.
        (BRAIN, 3136, 3136, (16, 128), HOPPER, FLASH, "triton"),
        (BRAIN, 3136, 3136, (16, 128), HOPPER, NONE, "triton"),
        (BRAIN, 12544, 12544, (64, 64), HOPPER, NONE, "triton"),
        (BRAIN, 196, 196, (16, 128), HOPPER, NONE, "triton"),
        # Refused by both: channels that are no eights, old devices; by cuDNN one key; by FlashAttention some widths.
        (BRAIN, 3136, 1, (16, 128), HOPPER, BOTH, "triton"),
        (BRAIN, 3136, 1, (64, 64), HOPPER, BOTH, "library"),
        (BRAIN, 3136, 3136, (12, 128), HOPPER, BOTH, "triton"),
        (BRAIN, 3136, 3136, (16, 100), HOPPER, BOTH, "triton"),
        (BRAIN, 784, 784, (224, 224), HOPPER, BOTH, "blocks"),
        (BRAIN, 784, 784, (264, 264), HOPPER, BOTH, "blocks"),
        (HALF, 3136, 3136, (16, 128), TURING, BOTH, "blocks"),
        # The other blocks of NL-CCAM have values that are too wide for a library.
        (BRAIN, 784, 784, (32, 256), HOPPER, BOTH, "triton"),
        (BRAIN, 196, 196, (64, 512), HOPPER, BOTH, "triton"),
        (BRAIN, 3136, 3136, (64, 512), HOPPER, BOTH, "triton"),
        # Nobody has a kernel of float64, nor we one for wider queries.
        (FULL, 14, 14, (136, 64), HOPPER, BOTH, "blocks"),
        (DOUBLE, 14, 14, (16, 128), HOPPER, BOTH, "blocks"),
    ],
)
@pytest.mark.parametrize("images", [1, 128])
def test_route(dtype, positions, keys, channels, capability, libraries, route, images):
    found = cuda_route(dtype, positions, keys, *channels, images=images, capability=capability, libraries=libraries)
    assert found == route


@pytest.mark.parametrize(
    ("images", "side", "channels", "route"),
    [
        *((1, 14, (64, 512), "triton"), (16, 14, (64, 512), "triton"), (32, 14, (64, 512), "blocks")),
        *((1, 28, (32, 256), "triton"), (32, 28, (32, 256), "blocks"), (1, 56, (16, 128), "blocks")),
    ],
)
def test_strict_float32_is_ours_while_there_is_little_to_multiply(images, side, channels, route):
    sizes = FULL, side**2, side**2, *channels
    assert cuda_route(*sizes, images=images, capability=HOPPER, libraries=BOTH) == route
    assert cuda_route(*sizes, images=images, capability=HOPPER, libraries=BOTH, tf32=True) == "triton"
    assert cuda_route(*sizes, images=images, capability=TURING, libraries=BOTH, tf32=True) == "blocks"


def test_no_library_is_asked_in_deterministic_mode(monkeypatch):
    monkeypatch.setattr(_cuda_attention, "_HAS_CUDNN", True)
    assert _cuda_attention.libraries() == BOTH
    monkeypatch.setattr(_cuda_attention, "_HAS_CUDNN", False)
    assert _cuda_attention.libraries() == FLASH
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert _cuda_attention.libraries() == NONE


@pytest.fixture
def calls(monkeypatch):
    """The calls of the library: queries, keys and values, the scale, and if the memory-efficient kernel was allowed."""
    seen = []

    def scaled_dot_product_attention(query, key, value, scale):
        seen.append(((query, key, value), scale, torch.backends.cuda.mem_efficient_sdp_enabled()))
        return query

    monkeypatch.setattr(_cuda_attention.functional, "scaled_dot_product_attention", scaled_dot_product_attention)
    return seen


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_size_that_the_library_refuses_when_called_is_left_to_our_kernels(where, trained, monkeypatch, caplog):
    """Its static checks let it through; it is asked once per size."""

    class Refusing(torch.autograd.Function):
        @staticmethod
        def forward(ctx, query):
            return query.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError("no valid execution plans")

    asked = []

    def attention(query, key, value, scale):
        asked.append(query.shape)
        if where == "forward":
            raise RuntimeError("no valid execution plans")
        return Refusing.apply(query)

    monkeypatch.setattr(_cuda_attention.functional, "scaled_dot_product_attention", attention)
    _cuda_attention._library_runs.cache_clear()
    size = (torch.device("cpu"), FULL, 6, 6, 8, 8, trained)
    found = [_cuda_attention._library_runs(*size) for _ in range(2)]
    _cuda_attention._library_runs.cache_clear()
    assert found == [where == "backward" and not trained] * 2
    assert asked == [(1, 1, 6, 8)]
    assert len(caplog.messages) == (not found[0])


def test_the_memory_efficient_kernel_is_never_allowed(calls):
    _cuda_attention.by_library(*maps((8, 8), HALF))
    ((_, scale, allowed),) = calls
    assert (scale, allowed) == (1.0, False)
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def maps(channels, dtype, layout=torch.contiguous_format):
    query, value = channels
    shapes = (2, query, 5, 7), (2, query, 4, 6), (2, value, 4, 6)
    return [
        seeded(shape, DEVICE, dtype, seed=i).contiguous(memory_format=layout).requires_grad_()
        for i, shape in enumerate(shapes)
    ]


def in_float64(inputs, grad):
    wide = [x.detach().cpu().double().requires_grad_() for x in inputs]
    out = reference.non_local_attention(*wide, "embedded_gaussian")
    return out.detach(), torch.autograd.grad(out, wide, grad.cpu().double())


def check(call, inputs):
    """Output and gradients, within the rounding of the scores, whose exponentials amplify it."""
    tolerance = {HALF: 1e-2, BRAIN: 6e-2, FULL: tolerance_on(DEVICE, "non_local_attention", FULL)}[inputs[0].dtype]
    out = call(*inputs)
    grad = seeded(out.shape, DEVICE, out.dtype, seed=3)
    gradients = torch.autograd.grad(out, inputs, grad)
    expected, wanted = in_float64(inputs, grad)
    assert out.dtype == inputs[0].dtype
    assert out.is_contiguous(memory_format=layout_of(inputs[2]))
    assert_close(out.cpu(), expected, tolerance)
    for gradient, exact in zip(gradients, wanted, strict=True):
        assert gradient.dtype == inputs[0].dtype
        unit = max(1.0, exact.abs().max().item())
        assert_close(gradient.cpu() / unit, exact / unit, tolerance)


ALL_DTYPES = pytest.mark.parametrize("dtype", [HALF, BRAIN, FULL], ids=["f16", "bf16", "f32"])
ALL_LAYOUTS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])


@ALL_DTYPES
@ALL_LAYOUTS
@pytest.mark.parametrize("channels", [(8, 16), (16, 16)], ids=["unequal", "equal"])
def test_library(channels, layout, dtype):
    """Of whatever libraries there are: cuDNN's and FlashAttention's on CUDA, torch's own on a CPU."""
    check(_cuda_attention.by_library, maps(channels, dtype, layout))


@ALL_DTYPES
@ALL_LAYOUTS
@pytest.mark.parametrize("route", ["triton", "blocks", "small_blocks"])
def test_route_inside_the_op(route, layout, dtype, monkeypatch):
    """The op as CUDA calls it, half precision unwidened."""
    if route == "triton":
        pytest.importorskip("triton", reason="Triton is not installed")
        if dtype == BRAIN and DEVICE == "cpu":
            pytest.skip(reason="Triton's interpreter multiplies the bits of bfloat16 as integers")
    if route == "small_blocks":
        # Of three rows of 24 keys, of which the last block has two.
        for block in ("_CPU_BLOCK", "_DEVICE_BLOCK"):
            monkeypatch.setattr(_chunked_attention, block, 3 * 24)
    monkeypatch.setattr(_chunked_attention, "_route", lambda *_: "triton" if route == "triton" else "blocks")
    op = torch.ops.wsolfast.non_local_attention.default
    check(lambda *inputs: op(*inputs, "embedded_gaussian"), maps((8, 24), dtype, layout))


def test_the_public_function_asks_the_library_first(monkeypatch):
    monkeypatch.setattr(_cuda_attention, "library_serves", lambda *inputs: True)
    monkeypatch.setattr(_chunked_attention, "_route", None)
    check(ops.non_local_attention, maps((8, 16), FULL))


def test_the_library_is_compiled_into_the_graph(monkeypatch):
    monkeypatch.setattr(_cuda_attention, "library_serves", lambda *inputs: True)
    monkeypatch.setattr(_chunked_attention, "_route", None)
    compiled = torch.compile(ops.non_local_attention, fullgraph=True, backend="aot_eager")
    check(compiled, maps((8, 16), FULL))


def test_autocast_does_not_reach_the_library():
    def call(*inputs):
        with torch.autocast(DEVICE, dtype=BRAIN):
            return _cuda_attention.by_library(*inputs)

    check(call, maps((8, 16), FULL))


@pytest.mark.cuda
@pytest.mark.parametrize("compiled", [False, True])
def test_half_precision_on_cuda(compiled):
    function = torch.compile(ops.non_local_attention, fullgraph=True) if compiled else ops.non_local_attention
    inputs = maps((16, 128), HALF)
    assert _cuda_attention.library_serves(*inputs)
    check(function, inputs)
    torch.use_deterministic_algorithms(True)
    try:
        assert not _cuda_attention.library_serves(*inputs)
        check(function, inputs)
    finally:
        torch.use_deterministic_algorithms(False)


def test_maps_are_copied_only_where_the_libraries_want_it(calls):
    one = seeded((2, 24, 3, 5), dtype=HALF).to(memory_format=torch.channels_last)
    _cuda_attention.by_library(*one.split(8, dim=1))
    ((given, *_),) = calls
    assert [x.data_ptr() for x in given] == [x.data_ptr() for x in one.split(8, dim=1)]
    calls.clear()
    odd = seeded((2, 31, 3, 5), dtype=HALF).to(memory_format=torch.channels_last)[:, 1:9]
    _cuda_attention.by_library(odd, one[:, :8].contiguous(), odd)
    ((given, *_),) = calls
    for rows, maps_ in zip(given, (odd, one[:, :8], odd), strict=True):
        assert rows.is_contiguous()
        assert torch.equal(rows[:, 0].mT, maps_.flatten(2))
